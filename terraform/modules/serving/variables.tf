variable "text" {
  description = "The pins document as it is: file(\"pins.json\")."
  type        = string
  nullable    = false
}

variable "namespace" {
  description = "The namespace of the workload. Kustomize makes it."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "A namespace has 1 to 63 lower-case letters, digits and hyphens. Give the one that the Kustomize overlay names."
  }
}

variable "config_map" {
  description = "Name of the pins' ConfigMap; modelswitch-pins-<deployment> unless given. The pods mount it, and [fleet] config_map names it."
  type        = string
  default     = null

  validation {
    condition     = var.config_map == null ? true : can(regex("^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", var.config_map))
    error_message = "A ConfigMap's name has 1 to 253 lower-case letters, digits, hyphens and dots. Leave it out for modelswitch-pins-<deployment>."
  }
}

variable "service_accounts" {
  description = "The ServiceAccounts, in this namespace, that the agents run as. Kustomize makes them."
  type        = set(string)
  default     = ["modelswitch-agent"]
  nullable    = false

  validation {
    condition     = length(var.service_accounts) > 0
    error_message = "Without a ServiceAccount no agent could read the pins. Name those of the pods."
  }
}

variable "pools" {
  description = "Pool => the Kubernetes Deployment whose pods serve it. Needed for `restart`; under `hot` it only warns of models in a pool that nobody serves. Leave it null to be told nothing."
  type        = map(string)
  default     = null
}

variable "strategy" {
  description = "hot: agents follow the ConfigMap, models stay warm. restart: pods are also rolled when what is default in their pool changes."
  type        = string
  default     = "hot"
  nullable    = false

  validation {
    condition     = contains(["hot", "restart"], var.strategy)
    error_message = "The strategy is \"hot\" or \"restart\"."
  }

  validation {
    condition     = var.strategy == "hot" || try(length(var.pools), 0) > 0
    error_message = "The strategy \"restart\" rolls Deployments: name them in `pools`, such as { default = \"torchserve\" }."
  }
}

variable "labels" {
  description = "More labels for all that is made here. Those of ModelSwitch's own stand over them."
  type        = map(string)
  default     = {}
  nullable    = false
}
