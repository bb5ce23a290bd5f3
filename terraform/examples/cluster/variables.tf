variable "namespace" {
  description = "The namespace of the workload, which Kustomize has made."
  type        = string
  default     = "modelswitch"
  nullable    = false
}

variable "kubeconfig" {
  description = "Path of the kubeconfig; else KUBE_CONFIG_PATH, else the pod's own service account."
  type        = string
  default     = null
}

variable "context" {
  description = "Context in the kubeconfig; else its current one."
  type        = string
  default     = null
}

variable "service_accounts" {
  description = "The ServiceAccounts that the agents run as."
  type        = set(string)
  default     = ["modelswitch-agent"]
  nullable    = false
}

variable "pools" {
  description = "Pool => the Kubernetes Deployment whose pods serve it."
  type        = map(string)
  default = {
    classifier = "torchserve-classifier"
    features   = "torchserve-features"
  }
  nullable = false
}

variable "strategy" {
  description = "hot: agents follow, models stay warm. restart: pods are rolled as well; see docs/terraform.md."
  type        = string
  default     = "hot"
  nullable    = false
}

variable "labels" {
  description = "More labels for what Terraform makes."
  type        = map(string)
  default     = {}
  nullable    = false
}
