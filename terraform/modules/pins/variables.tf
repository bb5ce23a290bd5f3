variable "text" {
  description = "The pins document as it is: file(\"pins.json\")."
  type        = string
  nullable    = false

  # What must hold stands at output.text: a validation here would print the whole text when it fails.
}
