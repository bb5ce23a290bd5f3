# terraform test: with a provider that is imitated, so without a cluster. The pins are those of the
# module beside: digits in `classifier`, scaler in `features`, generation 17 of deployment `local`.

mock_provider "kubernetes" {
  # Nothing stands yet.
  override_data {
    target = data.kubernetes_config_map_v1.standing
    values = { data = null }
  }
}

variables {
  text      = file("../pins/tests/pins.json")
  namespace = "modelswitch"
}

run "the_config_map_holds_the_very_text" {
  command = plan

  assert {
    condition     = kubernetes_config_map_v1.pins.data == tomap({ "pins.json" = file("../pins/tests/pins.json") })
    error_message = "the ConfigMap must hold the text and nothing else"
  }

  assert {
    condition = (
      kubernetes_config_map_v1.pins.metadata[0].name == "modelswitch-pins-local" &&
      kubernetes_config_map_v1.pins.metadata[0].namespace == "modelswitch" &&
      kubernetes_config_map_v1.pins.metadata[0].labels["modelswitch.dev/deployment"] == "local"
    )
    error_message = "the ConfigMap is not where agents look"
  }

  assert {
    condition     = output.config_map == "modelswitch-pins-local" && output.generation == 17
    error_message = "the outputs do not say what is published"
  }
}

run "agents_may_read_their_pins_and_patch_a_status" {
  command = plan

  assert {
    condition = jsonencode([for rule in kubernetes_role_v1.agent.rule : [
      rule.api_groups, rule.resources, coalesce(rule.resource_names, []), rule.verbs
      ]]) == jsonencode([
      [[""], ["configmaps"], ["modelswitch-pins-local"], ["get", "list", "watch"]],
      [[""], ["pods/status"], [], ["patch"]],
    ])
    error_message = "the agents may do something else"
  }

  assert {
    condition     = [for subject in kubernetes_role_binding_v1.agent.subject : "${subject.kind} ${subject.namespace}/${subject.name}"] == ["ServiceAccount modelswitch/modelswitch-agent"]
    error_message = "somebody else is bound"
  }

  assert {
    condition     = length(kubernetes_annotations.defaults) == 0
    error_message = "under `hot` no pod is rolled"
  }
}

run "a_name_of_ones_own_is_used_everywhere" {
  command = plan
  variables {
    config_map       = "pins"
    service_accounts = ["a", "b"]
    labels           = { team = "vision", "app.kubernetes.io/part-of" = "mine" }
  }

  assert {
    condition = (
      kubernetes_config_map_v1.pins.metadata[0].name == "pins" &&
      contains(kubernetes_role_v1.agent.rule[0].resource_names, "pins")
    )
    error_message = "the name is not used everywhere"
  }

  assert {
    condition     = [for subject in kubernetes_role_binding_v1.agent.subject : subject.name] == ["a", "b"]
    error_message = "not all ServiceAccounts are bound"
  }

  assert {
    condition = (
      kubernetes_config_map_v1.pins.metadata[0].labels["team"] == "vision" &&
      kubernetes_config_map_v1.pins.metadata[0].labels["app.kubernetes.io/part-of"] == "modelswitch"
    )
    error_message = "labels are added, ModelSwitch's own stand over them"
  }
}

run "restart_annotates_each_pools_workload" {
  command = plan
  variables {
    strategy = "restart"
    pools    = { classifier = "torchserve-classifier", features = "torchserve-features", spare = "torchserve-spare" }
  }

  assert {
    condition = { for pool, one in kubernetes_annotations.defaults : one.metadata[0].name => one.template_annotations["modelswitch.dev/defaults-sha256"] } == {
      torchserve-classifier = module.pins.defaults_sha256["classifier"]
      torchserve-features   = module.pins.defaults_sha256["features"]
      torchserve-spare      = sha256("")
    }
    error_message = "each Deployment is annotated with the hash of its pool's defaults"
  }
}

run "refuses_restart_without_workloads" {
  command = plan
  variables { strategy = "restart" }
  expect_failures = [var.strategy]
}

run "refuses_another_strategy" {
  command = plan
  variables { strategy = "cold" }
  expect_failures = [var.strategy]
}

run "refuses_nobody_who_may_read" {
  command = plan
  variables { service_accounts = [] }
  expect_failures = [var.service_accounts]
}

run "refuses_what_is_no_namespace" {
  command = plan
  variables { namespace = "Model Switch" }
  expect_failures = [var.namespace]
}

run "refuses_what_is_no_name" {
  command = plan
  variables { config_map = "pins_of_mine" }
  expect_failures = [var.config_map]
}

run "warns_of_models_in_a_pool_that_nobody_serves" {
  command = plan
  variables { pools = { classifier = "torchserve-classifier" } }
  expect_failures = [check.every_pool_is_served]
}

run "warns_of_a_break_glass_rollback" {
  command = plan
  variables { text = replace(file("../pins/tests/pins.json"), "\"main\"", "\"break-glass-1\"") }
  expect_failures = [check.the_ledger_knows]
}

run "refuses_to_go_back_to_an_older_generation" {
  command = plan

  override_data {
    target = data.kubernetes_config_map_v1.standing
    values = { data = { "pins.json" = "{\"generation\": 18}" } }
  }

  expect_failures = [kubernetes_config_map_v1.pins]
}

run "goes_over_what_cannot_be_read" {
  command = plan

  override_data {
    target = data.kubernetes_config_map_v1.standing
    values = { data = { "pins.json" = "rubbish" } }
  }
}

run "goes_over_a_generation_that_is_no_number" {
  command = plan

  override_data {
    target = data.kubernetes_config_map_v1.standing
    values = { data = { "pins.json" = "{\"generation\": \"many\"}" } }
  }
}

run "takes_the_same_generation_again" {
  command = plan

  override_data {
    target = data.kubernetes_config_map_v1.standing
    values = { data = { "pins.json" = "{\"generation\": 17}" } }
  }
}
