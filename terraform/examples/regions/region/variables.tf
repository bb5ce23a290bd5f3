variable "name" {
  description = "The region's name."
  type        = string
  nullable    = false
}

variable "text" {
  description = "The pins document as it is."
  type        = string
  nullable    = false
}

variable "is_live" {
  description = "Whether the region takes the text; else it keeps what it holds."
  type        = bool
  nullable    = false
}

variable "namespace" {
  description = "The namespace of the workload."
  type        = string
  nullable    = false
}

variable "pools" {
  description = "Pool => the Kubernetes Deployment whose pods serve it."
  type        = map(string)
  nullable    = false
}
