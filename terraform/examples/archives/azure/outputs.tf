output "store_url" {
  description = "For modelswitch.toml, and MODELSWITCH_STORE_URL of the agents."
  value       = "abfs://${azurerm_storage_container.archives.name}@${azurerm_storage_account.archives.primary_dfs_host}/archives"
}

output "agent_client_id" {
  description = "AZURE_CLIENT_ID in the overlay's settings.env."
  value       = azurerm_user_assigned_identity.agent.client_id
}
