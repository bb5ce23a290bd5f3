output "store_url" {
  description = "For modelswitch.toml, and MODELSWITCH_STORE_URL of the agents."
  value       = "gs://${google_storage_bucket.archives.name}/archives"
}

output "agent_service_account" {
  description = "GOOGLE_SERVICE_ACCOUNT in the overlay's settings.env."
  value       = google_service_account.agent.email
}
