# Several clusters, one pins.json. `regions_live` says who takes it: the others keep what they hold,
# so that a version goes out region by region.

terraform {
  required_version = ">= 1.9"

  required_providers {
    kubernetes = {
      source  = "hashicorp/kubernetes"
      version = "~> 3.2"
    }
  }

  # One state for all regions, in one of the clusters: see ../cluster/README.md.
  backend "kubernetes" {
    secret_suffix = "modelswitch-regions"
  }
}

# Terraform needs each provider written out. Another region: a provider, a module, a name in
# variables.tf.
provider "kubernetes" {
  alias          = "eu"
  config_path    = var.kubeconfig
  config_context = var.regions["eu"].context
}

provider "kubernetes" {
  alias          = "us"
  config_path    = var.kubeconfig
  config_context = var.regions["us"].context
}

locals {
  text = file("${path.module}/pins.json")
}

module "eu" {
  source    = "./region"
  providers = { kubernetes = kubernetes.eu }

  name      = "eu"
  text      = local.text
  is_live   = contains(var.regions_live, "eu")
  namespace = var.regions["eu"].namespace
  pools     = var.pools
}

module "us" {
  source    = "./region"
  providers = { kubernetes = kubernetes.us }

  name      = "us"
  text      = local.text
  is_live   = contains(var.regions_live, "us")
  namespace = var.regions["us"].namespace
  pools     = var.pools
}
