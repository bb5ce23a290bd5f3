output "config_map" {
  description = "Name of the pins' ConfigMap: what the pods mount and agents watch."
  value       = kubernetes_config_map_v1.pins.metadata[0].name
}

output "deployment" {
  description = "The deployment these pins are for."
  value       = module.pins.deployment
}

output "generation" {
  description = "What each agent should report."
  value       = module.pins.generation
}

output "sha256" {
  description = "SHA-256 of the text, as agents report it."
  value       = module.pins.sha256
}

output "pools" {
  description = "Pool => the names of its models, sorted."
  value       = module.pins.pools
}
