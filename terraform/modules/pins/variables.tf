variable "text" {
  description = "The pins document as it is: file(\"pins.json\")."
  type        = string
  nullable    = false

  validation {
    condition     = can(jsondecode(var.text).models)
    error_message = "This is not a pins document. Write it with: modelswitch pins export --format json > pins.json"
  }

  validation {
    condition     = try(jsondecode(var.text).schema == 1, false)
    error_message = "Only schema 1 of the pins is known here. Take the module of the release that wrote them."
  }

  validation {
    # A ConfigMap holds less than 1 MiB. Terraform's length() counts characters, base64 bytes.
    condition     = length(base64encode(var.text)) * 3 / 4 <= 1000000
    error_message = "The pins are larger than 1,000,000 bytes, which no ConfigMap holds. Retire models or candidates, or split them over deployments."
  }

  validation {
    condition     = endswith(var.text, "}\n")
    error_message = "The pins do not end as ModelSwitch writes them: something has edited the text. Write it anew with: modelswitch pins export --format json > pins.json"
  }

  validation {
    condition     = try(jsondecode(var.text).generation >= 0 && floor(jsondecode(var.text).generation) == jsondecode(var.text).generation, false)
    error_message = "The pins have no generation, a whole number of 0 or more."
  }

  validation {
    condition = try(alltrue([
      for model in values(jsondecode(var.text).models) :
      model.default == null ? true : contains(keys(model.slots), model.default)
    ]), false)
    error_message = "A model's default is not among its slots, so it could not be served."
  }

  validation {
    condition = try(alltrue(flatten([
      for model in values(jsondecode(var.text).models) : [
        for label in model.back : contains(keys(model.slots), label) && label != model.default
      ]
    ])), false)
    error_message = "A way back is not among its model's slots, or is the default itself."
  }

  validation {
    condition = try(alltrue(flatten([
      for model in values(jsondecode(var.text).models) : [
        for label, slot in model.slots :
        can(regex("^sha256:[0-9a-f]{64}$", slot.digest)) &&
        can(regex("^[0-9]+-[0-9a-f]{8}$", label)) &&
        substr(slot.digest, 7, 8) == split("-", label)[1]
      ]
    ])), false)
    error_message = "A slot's digest is not sha256:<64 hex>, or its label does not end in the digest's first 8 digits."
  }

  validation {
    condition = try(alltrue(flatten([
      for model in values(jsondecode(var.text).models) : [
        for slot in values(model.slots) : slot.workers >= 1 && floor(slot.workers) == slot.workers
      ]
    ])), false)
    error_message = "A slot has no workers: 1 or more are needed on each server."
  }
}
