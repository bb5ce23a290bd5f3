# One region: it takes the pins, or keeps those that it holds.

terraform {
  required_version = ">= 1.9"

  required_providers {
    kubernetes = {
      source  = "hashicorp/kubernetes"
      version = ">= 2.38, < 4.0"
    }
  }
}

module "pins" {
  source = "../../../modules/pins"
  text   = var.text
}

# No error where it is not there yet: its data are null then.
data "kubernetes_config_map_v1" "standing" {
  metadata {
    name      = module.pins.config_map
    namespace = var.namespace
  }
}

locals {
  # A region that holds nothing yet has nothing to keep.
  standing = try(data.kubernetes_config_map_v1.standing.data["pins.json"], null)
  text     = var.is_live || local.standing == null ? var.text : local.standing
}

module "serving" {
  source = "../../../modules/serving"

  text      = local.text
  namespace = var.namespace
  pools     = var.pools
  labels    = { "topology.kubernetes.io/region" = var.name }
}
