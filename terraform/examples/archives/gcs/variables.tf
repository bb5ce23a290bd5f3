variable "project" {
  description = "The Google Cloud project of the bucket and of the GKE cluster."
  type        = string
  nullable    = false
}

variable "location" {
  description = "Location of the bucket, such as EUROPE-WEST1."
  type        = string
  nullable    = false
}

variable "bucket" {
  description = "Name of the bucket."
  type        = string
  nullable    = false
}

variable "builders" {
  description = "Who builds archives: user:…, group:…, serviceAccount:…"
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for who in var.builders : can(regex("^(user|group|serviceAccount|principal|principalSet):", who))])
    error_message = "Name each as IAM does, such as group:ml@example.com. Never allUsers: archives are code that runs."
  }
}

variable "namespace" {
  description = "The namespace of the workload."
  type        = string
  default     = "modelswitch"
  nullable    = false
}

variable "service_account" {
  description = "The ServiceAccount of the agents; Google's service account gets the same name."
  type        = string
  default     = "modelswitch-agent"
  nullable    = false
}
