variable "region" {
  description = "AWS region of the bucket."
  type        = string
  nullable    = false
}

variable "bucket" {
  description = "Name of the bucket."
  type        = string
  nullable    = false
}

variable "prefix" {
  description = "Where in the bucket, without slashes at its ends."
  type        = string
  default     = "archives"
  nullable    = false

  validation {
    condition     = var.prefix != "" && trim(var.prefix, "/") == var.prefix
    error_message = "Give the prefix without slashes at its ends, such as \"archives\"."
  }
}

variable "oidc_provider_arn" {
  description = "ARN of the IAM OIDC provider of the EKS cluster."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^arn:[^:]+:iam::[0-9]{12}:oidc-provider/.+$", var.oidc_provider_arn))
    error_message = "This is no ARN of an OIDC provider. List them: aws iam list-open-id-connect-providers"
  }
}

variable "namespace" {
  description = "The namespace of the workload."
  type        = string
  default     = "modelswitch"
  nullable    = false
}

variable "service_account" {
  description = "The ServiceAccount of the agents."
  type        = string
  default     = "modelswitch-agent"
  nullable    = false
}
