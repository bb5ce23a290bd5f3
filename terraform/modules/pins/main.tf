# The pins of one deployment, as ModelSwitch publishes them: the text goes through untouched, and
# is decoded only to be validated. Two encoders never agree on bytes, so nothing here encodes JSON.

terraform {
  required_version = ">= 1.9"
}

locals {
  # What is no document has no models, and output.text says so.
  document   = try(jsondecode(var.text), null)
  models     = try({ for name, model in local.document.models : name => model }, {})
  schema     = try(local.document.schema, null)
  deployment = try(tostring(local.document.deployment), "")
  generation = try(floor(local.document.generation) == local.document.generation ? local.document.generation : -1, -1)

  is_document = can(keys(local.document.models))
  ends_right  = endswith(var.text, "}\n")
  # A ConfigMap holds less than 1 MiB. Terraform's length() counts characters, base64 bytes.
  size_bytes = floor(length(base64encode(var.text)) * 3 / 4)

  # Where each model's slots are held: in its own pool, but for candidates kept to another.
  held = {
    for name, model in local.models :
    name => distinct(compact(concat(
      [try(model.pool, "")],
      [for slot in try(values(model.slots), []) : try(slot.pool, "")],
    )))
  }

  pools = {
    for pool in distinct(flatten(values(local.held))) :
    pool => sort([for name, pools in local.held : name if contains(pools, pool)])
  }

  # What is default, and nothing else: the `restart` strategy rolls pods when this changes.
  defaults = {
    for pool, names in local.pools :
    pool => sha256(join("\n", [
      for name in names : join(" ", [
        name,
        try(local.models[name].default, null) == null ? "-" : local.models[name].default,
        try(local.models[name].slots[local.models[name].default].digest, "-"),
      ])
      if try(local.models[name].pool, "") == pool
    ]))
  }
}

# What is wrong with the document, by name: the conditions of output.text print these.
locals {
  wrong_pools = [
    for name, model in local.models : name
    if !alltrue([
      for pool in concat([try(model.pool, null)], [
        for slot in try(values(model.slots), []) : slot.pool if can(slot.pool)
      ]) : can(regex("^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$", pool))
    ])
  ]

  wrong_defaults = [
    for name, model in local.models : name
    if !try(model.default == null ? true : contains(keys(model.slots), model.default), false)
  ]

  wrong_ways_back = [
    for name, model in local.models : name
    if !try(alltrue([
      for label in model.back : contains(keys(model.slots), label) && label != model.default
    ]) && length(distinct(model.back)) == length(model.back), false)
  ]

  wrong_slots = flatten([
    for name, model in local.models : [
      for label, slot in try(model.slots, {}) : "${name} ${label}"
      if !(
        can(regex("^sha256:[0-9a-f]{64}$", slot.digest)) &&
        can(regex("^(0|[1-9][0-9]*)-[0-9a-f]{8}$", label)) &&
        try(substr(slot.digest, 7, 8) == split("-", label)[1], false)
      )
    ]
  ])

  wrong_workers = flatten([
    for name, model in local.models : [
      for label, slot in try(model.slots, {}) : "${name} ${label}"
      if !try(slot.workers >= 1 && slot.workers <= 1024 && floor(slot.workers) == slot.workers, false)
    ]
  ])
}
