# One cluster. `modelswitch` writes pins.json beside this file; `terraform apply` publishes it.

terraform {
  required_version = ">= 1.9"

  required_providers {
    kubernetes = {
      source  = "hashicorp/kubernetes"
      version = "~> 3.2"
    }
  }

  # State as Secrets, locked by a Lease. Where they stand is said once, to `terraform init`:
  # cluster and namespace differ between checkouts, and nothing of them belongs in git.
  backend "kubernetes" {
    secret_suffix = "modelswitch"
  }
}

provider "kubernetes" {
  # null: KUBE_CONFIG_PATH and KUBE_CTX, or the pod's own service account.
  config_path    = var.kubeconfig
  config_context = var.context
}

module "serving" {
  source = "../../modules/serving"

  text             = file("${path.module}/pins.json")
  namespace        = var.namespace
  service_accounts = var.service_accounts
  pools            = var.pools
  strategy         = var.strategy
  labels           = var.labels
}
