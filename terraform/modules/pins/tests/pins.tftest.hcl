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
    condition     = output.generation == 17 && output.deployment == "local"
    error_message = "generation or deployment were not read"
  }

  assert {
    condition     = jsonencode(output.pools) == jsonencode({ classifier = ["digits"], features = ["scaler"] })
    error_message = "the pools are not those of the models"
  }
}

run "refuses_what_is_not_json" {
  command = plan
  variables { text = "not json\n" }
  expect_failures = [var.text]
}

run "refuses_a_newer_schema" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"schema\": 1", "\"schema\": 2") }
  expect_failures = [var.text]
}

run "refuses_a_default_that_is_no_slot" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"default\": \"4-cdcdcdcd\"", "\"default\": \"5-cdcdcdcd\"") }
  expect_failures = [var.text]
}

run "refuses_a_way_back_that_is_the_default" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"3-abababab\"\n      ]", "\"4-cdcdcdcd\"\n      ]") }
  expect_failures = [var.text]
}

run "refuses_a_digest_cut_short" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "sha256:abab", "sha256:ab") }
  expect_failures = [var.text]
}

run "refuses_a_label_of_another_digest" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "sha256:cdcd", "sha256:aacd") }
  expect_failures = [var.text]
}

run "refuses_no_workers" {
  command = plan
  variables { text = replace(file("tests/pins.json"), "\"workers\": 2", "\"workers\": 0") }
  expect_failures = [var.text]
}

run "refuses_an_edited_end" {
  command = plan
  variables { text = "${file("tests/pins.json")} " }
  expect_failures = [var.text]
}

run "refuses_what_no_configmap_holds" {
  command = plan
  variables {
    text = replace(file("tests/pins.json"), "\"main\"", "\"${format("%1000001s", "")}\"")
  }
  expect_failures = [var.text]
}
