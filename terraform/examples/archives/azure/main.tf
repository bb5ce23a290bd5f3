# Archives in Azure Blob Storage, read by the agents through workload identity (AKS).

terraform {
  required_version = ">= 1.9"

  required_providers {
    azurerm = {
      source  = "hashicorp/azurerm"
      version = "~> 4.9"
    }
  }
}

provider "azurerm" {
  subscription_id     = var.subscription_id
  storage_use_azuread = true # there are no keys

  features {}
}

resource "azurerm_resource_group" "archives" {
  name     = var.resource_group
  location = var.location
}

resource "azurerm_storage_account" "archives" {
  name                            = var.account
  resource_group_name             = azurerm_resource_group.archives.name
  location                        = azurerm_resource_group.archives.location
  account_tier                    = "Standard"
  account_replication_type        = "ZRS"
  min_tls_version                 = "TLS1_2"
  shared_access_key_enabled       = false
  allow_nested_items_to_be_public = false

  # An archive is never changed: what is written over or deleted by mistake can be had back.
  blob_properties {
    versioning_enabled = true

    delete_retention_policy {
      days = 30
    }
  }
}

resource "azurerm_storage_container" "archives" {
  name                  = "archives"
  storage_account_id    = azurerm_storage_account.archives.id
  container_access_type = "private"
}

resource "azurerm_user_assigned_identity" "agent" {
  name                = var.service_account
  resource_group_name = azurerm_resource_group.archives.name
  location            = azurerm_resource_group.archives.location
}

resource "azurerm_federated_identity_credential" "agent" {
  name                = var.service_account
  resource_group_name = azurerm_resource_group.archives.name
  parent_id           = azurerm_user_assigned_identity.agent.id
  issuer              = var.oidc_issuer_url
  subject             = "system:serviceaccount:${var.namespace}:${var.service_account}"
  audience            = ["api://AzureADTokenExchange"]
}

resource "azurerm_role_assignment" "agent" {
  scope                = azurerm_storage_container.archives.id
  role_definition_name = "Storage Blob Data Reader"
  principal_id         = azurerm_user_assigned_identity.agent.principal_id
}

# Those who run `modelswitch`.
resource "azurerm_role_assignment" "builders" {
  for_each = var.builders

  scope                = azurerm_storage_container.archives.id
  role_definition_name = "Storage Blob Data Contributor"
  principal_id         = each.value
}
