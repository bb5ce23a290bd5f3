variable "regions" {
  description = "Region => its cluster's context in the kubeconfig, and the namespace of the workload."
  type = map(object({
    context   = optional(string)
    namespace = optional(string, "modelswitch")
  }))
  default = {
    eu = { context = "eu" }
    us = { context = "us" }
  }
  nullable = false

  validation {
    condition     = toset(keys(var.regions)) == toset(["eu", "us"])
    error_message = "The regions are those that main.tf has a provider and a module for: eu, us."
  }
}

variable "regions_live" {
  description = "The regions that take pins.json; the others keep what they hold. All of them, but while a version goes out region by region."
  type        = set(string)
  default     = ["eu", "us"]
  nullable    = false

  validation {
    condition     = length(setsubtract(var.regions_live, keys(var.regions))) == 0
    error_message = "No such region: ${join(", ", setsubtract(var.regions_live, keys(var.regions)))}. They are: ${join(", ", keys(var.regions))}."
  }
}

variable "kubeconfig" {
  description = "Path of the kubeconfig that has all contexts; else KUBE_CONFIG_PATH."
  type        = string
  default     = null
}

variable "pools" {
  description = "Pool => the Kubernetes Deployment whose pods serve it, the same in every region."
  type        = map(string)
  default = {
    classifier = "torchserve-classifier"
    features   = "torchserve-features"
  }
  nullable = false
}
