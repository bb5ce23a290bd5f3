variable "subscription_id" {
  description = "The Azure subscription."
  type        = string
  nullable    = false
}

variable "resource_group" {
  description = "Name of the resource group that is made for the archives."
  type        = string
  default     = "modelswitch-archives"
  nullable    = false
}

variable "location" {
  description = "Azure region, such as westeurope."
  type        = string
  nullable    = false
}

variable "account" {
  description = "Name of the storage account: 3 to 24 lower-case letters and digits, unique in all of Azure."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]{3,24}$", var.account))
    error_message = "A storage account's name has 3 to 24 lower-case letters and digits, nothing else."
  }
}

variable "oidc_issuer_url" {
  description = "The OIDC issuer of the AKS cluster."
  type        = string
  nullable    = false

  validation {
    condition     = startswith(var.oidc_issuer_url, "https://")
    error_message = "This is no issuer's address. Ask for it: az aks show -n CLUSTER -g GROUP --query oidcIssuerProfile.issuerUrl"
  }
}

variable "builders" {
  description = "Object ids of the people, groups or identities that build archives."
  type        = set(string)
  default     = []
  nullable    = false
}

variable "namespace" {
  description = "The namespace of the workload."
  type        = string
  default     = "modelswitch"
  nullable    = false
}

variable "service_account" {
  description = "The ServiceAccount of the agents; the managed identity gets the same name."
  type        = string
  default     = "modelswitch-agent"
  nullable    = false
}
