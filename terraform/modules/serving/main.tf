# What Terraform owns of a deployment on Kubernetes: the ConfigMap of the pins, what the agents may
# do, and, under `restart`, one annotation. The workload itself is Kustomize's: no two writers.

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
  source = "../pins"
  text   = var.text
}

locals {
  config_map = coalesce(var.config_map, module.pins.config_map)

  labels = merge(var.labels, {
    "app.kubernetes.io/managed-by" = "terraform"
    "app.kubernetes.io/part-of"    = "modelswitch"
    "modelswitch.dev/deployment"   = module.pins.deployment
  })

  unserved = var.pools == null ? [] : [
    for pool, models in module.pins.pools : "${pool} (${join(", ", models)})"
    if !contains(keys(var.pools), pool)
  ]
}

# No error where it is not there yet: its data are null then.
data "kubernetes_config_map_v1" "standing" {
  metadata {
    name      = local.config_map
    namespace = var.namespace
  }
}

locals {
  # What cannot be read is written over.
  standing = try(tonumber(jsondecode(data.kubernetes_config_map_v1.standing.data["pins.json"]).generation), -1)
}

resource "kubernetes_config_map_v1" "pins" {
  metadata {
    name      = local.config_map
    namespace = var.namespace
    labels    = local.labels
  }

  data = {
    "pins.json" = module.pins.text
  }

  lifecycle {
    # The agents would refuse it; a stale checkout is told before anything is written.
    precondition {
      condition     = module.pins.generation >= local.standing
      error_message = "The pins have generation ${module.pins.generation}, and ${local.standing} stands in the ConfigMap ${var.namespace}/${local.config_map}: this checkout is behind. Update it, or write the pins anew: modelswitch pins export --format json > pins.json"
    }

    # Whoever notes something there owns it: people, kubectl, other controllers.
    ignore_changes = [metadata[0].annotations]
  }
}

# RBAC knows no "its own pod": that an agent patches no other pod's status is the admission
# policy's to say, which Kustomize brings.
resource "kubernetes_role_v1" "agent" {
  metadata {
    name      = "${local.config_map}-agent"
    namespace = var.namespace
    labels    = local.labels
  }

  # list and watch are allowed by name only to requests with fieldSelector metadata.name.
  rule {
    api_groups     = [""]
    resources      = ["configmaps"]
    resource_names = [local.config_map]
    verbs          = ["get", "list", "watch"]
  }

  rule {
    api_groups = [""]
    resources  = ["pods/status"]
    verbs      = ["patch"]
  }
}

resource "kubernetes_role_binding_v1" "agent" {
  metadata {
    name      = "${local.config_map}-agent"
    namespace = var.namespace
    labels    = local.labels
  }

  role_ref {
    api_group = "rbac.authorization.k8s.io"
    kind      = "Role"
    name      = kubernetes_role_v1.agent.metadata[0].name
  }

  dynamic "subject" {
    for_each = var.service_accounts

    content {
      kind      = "ServiceAccount"
      name      = subject.value
      namespace = var.namespace
    }
  }
}

resource "kubernetes_annotations" "defaults" {
  for_each = var.strategy == "restart" ? coalesce(var.pools, {}) : {}

  api_version = "apps/v1"
  kind        = "Deployment"

  metadata {
    name      = each.value
    namespace = var.namespace
  }

  template_annotations = {
    "modelswitch.dev/defaults-sha256" = lookup(module.pins.defaults_sha256, each.key, sha256(""))
  }

  # A manager of its own: what Terraform applies elsewhere on the same Deployment stays untouched.
  field_manager = "modelswitch-terraform"

  # The new pods read the pins at their start.
  depends_on = [kubernetes_config_map_v1.pins]
}

check "every_pool_is_served" {
  assert {
    condition     = length(local.unserved) == 0
    error_message = "No workload is named for the pool of: ${join("; ", local.unserved)}. No server loads these models: add the pool to `pools` and to the Kustomize overlay, or retire them."
  }
}

check "the_ledger_knows" {
  assert {
    condition     = !startswith(module.pins.epoch, "break-glass-")
    error_message = "These pins are those of a break-glass rollback, which the ledger has not recorded. They are applied; record them: modelswitch resume"
  }
}
