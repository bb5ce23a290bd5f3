output "generation" {
  description = "The generation that stands here after this apply."
  value       = module.serving.generation
}
