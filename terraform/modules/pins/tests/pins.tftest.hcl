# terraform test: offline, in about a second. The text is one that ModelSwitch rendered; a test of
# the project's compares it with what the code renders today.

variables {
  text = file("tests/pins.json")
}

run "passes_the_text_through" {
  command = plan

  assert {
    condition     = output.text == file("tests/pins.json")
    error_message = "the text was changed"
  }

  assert {
    condition     = output.sha256 == filesha256("tests/pins.json")
    error_message = "the hash is not that of the file"
  }

  assert {
    condition     = output.generation == 17 && output.deployment == "local" && output.epoch == "main"
    error_message = "generation, deployment or epoch were not read"
  }

  assert {
    condition     = jsonencode(output.pools) == jsonencode({ classifier = ["digits"], features = ["scaler"] })
    error_message = "the pools are not those of the models"
  }
}

# The hashes under `restart`: a candidate, workers or a way back must not roll a pod, a pointer must.
run "what_is_default_has_a_hash_of_its_own" {
  command = plan

  assert {
    condition = output.defaults_sha256 == {
      classifier = sha256("digits 4-cdcdcdcd sha256:${join("", [for i in range(32) : "cd"])}")
      features   = sha256("scaler - -")
    }
    error_message = "the hashes are not those of what is default"
  }
}

run "staging_does_not_change_the_hash" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"workers\": 2", "\"workers\": 3") }

  assert {
    condition     = output.defaults_sha256 == run.what_is_default_has_a_hash_of_its_own.defaults_sha256
    error_message = "the number of workers changed the hash of what is default"
  }
}

run "the_pointer_changes_the_hash_of_its_pool_only" {
  command = plan
  variables {
    text = replace(replace(file("tests/pins.json"), "\"3-abababab\"\n      ]", "\"4-cdcdcdcd\"\n      ]"),
    "\"default\": \"4-cdcdcdcd\"", "\"default\": \"3-abababab\"")
  }

  assert {
    condition = (
      output.defaults_sha256.classifier != run.what_is_default_has_a_hash_of_its_own.defaults_sha256.classifier &&
      output.defaults_sha256.features == run.what_is_default_has_a_hash_of_its_own.defaults_sha256.features
    )
    error_message = "another default must change the hash of its pool, and of no other"
  }
}

# A candidate may be kept to one pool: its servers hold it, and nothing there is default.
run "a_candidate_kept_to_a_pool_is_held_there" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"workers\": 1\n        }\n      }", "\"pool\": \"canary\", \"workers\": 1}}") }

  assert {
    condition = jsonencode(output.pools) == jsonencode({
      canary = ["scaler"], classifier = ["digits"], features = ["scaler"]
    })
    error_message = "the candidate's pool must be among the pools, and its model in both"
  }

  assert {
    condition = (
      output.defaults_sha256.canary == sha256("") &&
      output.defaults_sha256.features == sha256("scaler - -")
    )
    error_message = "what is default in a pool is what its own models say"
  }
}

run "a_deployments_name_becomes_one_that_kubernetes_takes" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"local\"", "\"My_Shop.\"") }

  assert {
    condition     = output.config_map == "modelswitch-pins-my-shop"
    error_message = "the name is not that of ModelSwitch's own settings"
  }
}

run "takes_pins_without_models" {
  command = plan
  variables { text = "{\"deployment\": \"local\", \"generation\": 0, \"models\": {}, \"schema\": 1}\n" }

  assert {
    condition     = output.generation == 0 && length(output.pools) == 0 && length(output.defaults_sha256) == 0
    error_message = "pins without models have neither pools nor hashes"
  }
}

run "refuses_what_is_not_json" {
  command = plan
  variables { text = "not json\n" }
  expect_failures = [output.text]
}

run "refuses_a_newer_schema" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"schema\": 1", "\"schema\": 2") }
  expect_failures = [output.text]
}

run "refuses_a_default_that_is_no_slot" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"default\": \"4-cdcdcdcd\"", "\"default\": \"5-cdcdcdcd\"") }
  expect_failures = [output.text]
}

run "refuses_a_way_back_that_is_the_default" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"3-abababab\"\n      ]", "\"4-cdcdcdcd\"\n      ]") }
  expect_failures = [output.text]
}

run "refuses_a_digest_cut_short" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "sha256:abab", "sha256:ab") }
  expect_failures = [output.text]
}

run "refuses_a_label_of_another_digest" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "sha256:cdcd", "sha256:aacd") }
  expect_failures = [output.text]
}

run "refuses_no_workers" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"workers\": 2", "\"workers\": 0") }
  expect_failures = [output.text]
}

run "refuses_a_way_back_named_twice" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"3-abababab\"\n      ]", "\"3-abababab\", \"3-abababab\"]") }
  expect_failures = [output.text]
}

run "refuses_a_model_without_pool" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"pool\": \"features\",", "") }
  expect_failures = [output.text]
}

run "refuses_a_pool_that_is_no_name" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"device\": \"cpu\",", "\"device\": \"cpu\", \"pool\": \"\",") }
  expect_failures = [output.text]
}

run "refuses_half_a_worker" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"workers\": 2", "\"workers\": 1.5") }
  expect_failures = [output.text]
}

run "refuses_no_deployment" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"deployment\": \"local\",", "") }
  expect_failures = [output.text]
}

run "refuses_a_generation_that_is_no_whole_number" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"generation\": 17", "\"generation\": 17.5") }
  expect_failures = [output.text]
}

run "refuses_an_edited_end" {
  command = plan
  variables { text = "${file("tests/pins.json")} " }
  expect_failures = [output.text]
}

run "refuses_what_no_configmap_holds" {
  command = plan
  variables {
    text = replace(file("tests/pins.json"), "\"main\"", "\"${format("%1000001s", "")}\"")
  }
  expect_failures = [output.text]
}
