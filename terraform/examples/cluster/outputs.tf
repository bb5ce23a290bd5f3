output "config_map" {
  description = "What the pods mount and the agents watch."
  value       = module.serving.config_map
}

output "generation" {
  description = "What each agent should report."
  value       = module.serving.generation
}

output "pools" {
  description = "Pool => the names of its models."
  value       = module.serving.pools
}
