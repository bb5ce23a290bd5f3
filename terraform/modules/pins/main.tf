# The pins of one deployment, as ModelSwitch publishes them: the text goes through untouched, and
# is decoded only to be validated. Two encoders never agree on bytes, so nothing here encodes JSON.

terraform {
  required_version = ">= 1.9"
}

locals {
  document = jsondecode(var.text)
  models   = local.document.models

  pools = {
    for pool in distinct([for model in local.models : model.pool]) :
    pool => sort([for name, model in local.models : name if model.pool == pool])
  }

  # What is default, and nothing else: the `restart` strategy rolls pods when this changes.
  defaults = {
    for pool, names in local.pools :
    pool => sha256(join("\n", [
      for name in names :
      "${name} ${coalesce(local.models[name].default, "-")}"
    ]))
  }
}
