output "text" {
  description = "The document, byte for byte as it came in."
  value       = var.text
}

output "sha256" {
  description = "SHA-256 of the text, as agents report it."
  value       = sha256(var.text)
}

output "deployment" {
  description = "The deployment these pins are for."
  value       = local.document.deployment
}

output "generation" {
  description = "The number that only grows; agents refuse a lower one."
  value       = local.document.generation
}

output "pools" {
  description = "Pool => the names of its models, sorted."
  value       = local.pools
}

output "defaults_sha256" {
  description = "Pool => a hash of what is default in it, which staging and ways back do not change."
  value       = local.defaults
}
