# Archives in Google Cloud Storage, read by the agents through workload identity (GKE).

terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.0"
    }
  }
}

provider "google" {
  project = var.project
}

resource "google_storage_bucket" "archives" {
  name                        = var.bucket
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # An archive is never changed: what is written over or deleted by mistake can be had back.
  versioning {
    enabled = true
  }
}

resource "google_service_account" "agent" {
  account_id   = var.service_account
  display_name = "ModelSwitch's agents: read archives"
}

resource "google_service_account_iam_member" "agent" {
  service_account_id = google_service_account.agent.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project}.svc.id.goog[${var.namespace}/${var.service_account}]"
}

resource "google_storage_bucket_iam_member" "agent" {
  bucket = google_storage_bucket.archives.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.agent.member
}

# Those who run `modelswitch`. Writing an archive anew needs the right to delete, too.
resource "google_storage_bucket_iam_member" "builders" {
  for_each = var.builders

  bucket = google_storage_bucket.archives.name
  role   = "roles/storage.objectUser"
  member = each.value
}
