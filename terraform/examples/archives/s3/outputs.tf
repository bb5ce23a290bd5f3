output "store_url" {
  description = "For modelswitch.toml, and MODELSWITCH_STORE_URL of the agents."
  value       = "s3://${aws_s3_bucket.archives.bucket}/${var.prefix}"
}

output "agent_role_arn" {
  description = "AWS_ROLE_ARN in the overlay's settings.env."
  value       = aws_iam_role.agent.arn
}

output "build_policy_arn" {
  description = "To be attached to whoever builds archives."
  value       = aws_iam_policy.build.arn
}
