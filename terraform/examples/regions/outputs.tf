output "generations" {
  description = "Region => the generation that stands there after this apply."
  value = {
    eu = module.eu.generation
    us = module.us.generation
  }
}
