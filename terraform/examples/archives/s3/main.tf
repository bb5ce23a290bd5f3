# Archives in S3, read by the agents through an IAM role for their ServiceAccount (EKS).

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

provider "aws" {
  region = var.region
}

locals {
  # store_url = s3://BUCKET/PREFIX: archives stand in PREFIX/archives/, what they were built from
  # in PREFIX/builds/.
  objects = "${aws_s3_bucket.archives.arn}/${var.prefix}/*"
  # arn:aws:iam::ACCOUNT:oidc-provider/ISSUER
  issuer  = split(":oidc-provider/", var.oidc_provider_arn)[1]
  subject = "system:serviceaccount:${var.namespace}:${var.service_account}"
}

resource "aws_s3_bucket" "archives" {
  bucket = var.bucket
}

# An archive is never changed: what is written over or deleted by mistake can be had back.
resource "aws_s3_bucket_versioning" "archives" {
  bucket = aws_s3_bucket.archives.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "archives" {
  bucket = aws_s3_bucket.archives.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "aws:kms"
    }
    bucket_key_enabled = true
  }
}

resource "aws_s3_bucket_public_access_block" "archives" {
  bucket                  = aws_s3_bucket.archives.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

data "aws_iam_policy_document" "encrypted_only" {
  statement {
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.archives.arn, "${aws_s3_bucket.archives.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "archives" {
  bucket     = aws_s3_bucket.archives.id
  policy     = data.aws_iam_policy_document.encrypted_only.json
  depends_on = [aws_s3_bucket_public_access_block.archives]
}

data "aws_iam_policy_document" "is_the_agent" {
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = [local.subject]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "agent" {
  name               = var.service_account
  assume_role_policy = data.aws_iam_policy_document.is_the_agent.json
}

data "aws_iam_policy_document" "read" {
  statement {
    actions   = ["s3:GetObject"]
    resources = [local.objects]
  }

  # Without it S3 says "forbidden" of what is only missing.
  statement {
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.archives.arn]

    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${var.prefix}/*"]
    }
  }
}

resource "aws_iam_role_policy" "agent" {
  name   = "read-archives"
  role   = aws_iam_role.agent.id
  policy = data.aws_iam_policy_document.read.json
}

# For those who build: attach it to the role of the people or the CI that run `modelswitch`.
data "aws_iam_policy_document" "build" {
  source_policy_documents = [data.aws_iam_policy_document.read.json]

  statement {
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:DeleteObject"]
    resources = [local.objects]
  }
}

resource "aws_iam_policy" "build" {
  name   = "${var.service_account}-build"
  policy = data.aws_iam_policy_document.build.json
}
