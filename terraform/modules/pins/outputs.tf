output "text" {
  description = "The document, byte for byte as it came in; only if it is consistent in itself."
  value       = var.text

  precondition {
    condition     = local.is_document
    error_message = "This is not a pins document. Write it anew: modelswitch pins export --format json > pins.json"
  }

  precondition {
    condition     = local.is_document ? local.schema == 1 : true
    error_message = "Only schema 1 of the pins is known here, and this says ${jsonencode(local.schema)}. Take this module from the release of ModelSwitch that wrote them."
  }

  precondition {
    condition     = local.size_bytes <= 1000000
    error_message = "The pins are about ${local.size_bytes} bytes; no ConfigMap holds more than 1,000,000 of them. Retire models or candidates, or split them over deployments."
  }

  precondition {
    condition     = local.is_document ? local.ends_right : true
    error_message = "The pins do not end as ModelSwitch writes them: something has edited the text. Write it anew: modelswitch pins export --format json > pins.json"
  }

  precondition {
    condition     = local.is_document ? can(regex("^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$", local.deployment)) : true
    error_message = "The pins name no deployment. Write them anew: modelswitch pins export --format json > pins.json"
  }

  precondition {
    condition     = local.is_document ? local.generation >= 0 : true
    error_message = "The pins have no generation, a whole number of 0 or more. Write them anew: modelswitch pins export --format json > pins.json"
  }

  precondition {
    condition     = length(local.wrong_pools) == 0
    error_message = "No pool, or one that cannot be a name, for: ${join(", ", local.wrong_pools)}. Each model names the pool whose servers load it."
  }

  precondition {
    condition     = length(local.wrong_defaults) == 0
    error_message = "The default is not among the slots, so it could not be served: ${join(", ", local.wrong_defaults)}. Move the pointer with modelswitch promote or rollback, not by hand."
  }

  precondition {
    condition     = length(local.wrong_ways_back) == 0
    error_message = "A way back is not among the slots, stands twice, or is the default itself: ${join(", ", local.wrong_ways_back)}. Write the pins anew: modelswitch pins export --format json > pins.json"
  }

  precondition {
    condition     = length(local.wrong_slots) == 0
    error_message = "The digest is not sha256:<64 hex>, or the label does not end in its first 8 digits: ${join(", ", local.wrong_slots)}. Write the pins anew: modelswitch pins export --format json > pins.json"
  }

  precondition {
    condition     = length(local.wrong_workers) == 0
    error_message = "Each slot needs 1 to 1024 workers on a server: ${join(", ", local.wrong_workers)}. Write the pins anew: modelswitch pins export --format json > pins.json"
  }
}

output "sha256" {
  description = "SHA-256 of the text, as agents report it."
  value       = sha256(var.text)
}

output "deployment" {
  description = "The deployment these pins are for."
  value       = local.deployment
}

output "config_map" {
  description = "The ConfigMap of this deployment, unless another is named: a name that Kubernetes takes."
  value       = "modelswitch-pins-${trim(replace(lower(local.deployment), "/[^a-z0-9.-]/", "-"), "-.")}"
}

output "epoch" {
  description = "main, or that of a break-glass rollback which the ledger has not recorded yet."
  value       = try(local.document.epoch, "main")
}

output "generation" {
  description = "The number that only grows; agents refuse a lower one."
  value       = local.generation
}

output "pools" {
  description = "Pool => the names of its models, sorted."
  value       = local.pools
}

output "defaults_sha256" {
  description = "Pool => a hash of what is default in it: label and digest. Staging and ways back do not change it."
  value       = local.defaults
}
