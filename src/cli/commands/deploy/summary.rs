//! What a runner of GitHub's is told in files: outputs for later steps, and a table for the page of the run.
//!
//! Both files are read by programs, so what others said stands in neither as it is: an output is a word, an id or a name, and in
//! the table each sign that means something is escaped.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use crate::api::error::{Doing, Error, Exit};
use crate::api::name::{DeploymentId, Project};
use crate::cli::screen::units;
use crate::cli::session::CommandError;

/// What came of a deployment.
pub(super) struct DeploymentSummary {
    project: Option<Project>,
    id: Option<DeploymentId>,
    status: &'static str,
    message: String,
    took: Option<String>,
}

impl DeploymentSummary {
    pub(super) fn of(
        result: &Result<Value, CommandError>,
        project: Option<Project>,
    ) -> DeploymentSummary {
        match result {
            Ok(done) => DeploymentSummary {
                project: word(&done["project"]).or(project),
                id: word(&done["deployment_id"]),
                status: match done["status"].as_str() {
                    Some("staged") => "staged",
                    _ => "success",
                },
                message: done["message"].as_str().unwrap_or_default().to_owned(),
                took: done["elapsed_ms"]
                    .as_u64()
                    .map(|ms| units::duration(std::time::Duration::from_millis(ms))),
            },
            Err(error) => {
                let failed = &error.failed;
                DeploymentSummary {
                    project,
                    id: failed
                        .deployment_id
                        .as_deref()
                        .and_then(|id| id.parse().ok()),
                    status: match (failed.code.as_deref(), failed.exit) {
                        (_, Exit::Unknown | Exit::Interrupted) => "unknown",
                        (Some("cancelled"), _) => "cancelled",
                        (Some("unhealthy"), _) => "rolled_back",
                        _ => "failed",
                    },
                    message: failed.message.clone(),
                    took: None,
                }
            }
        }
    }

    /// Tells the runner, if there is one.
    ///
    /// # Errors
    /// When one of the files that it names cannot be written.
    pub(super) fn tell(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<(), Error> {
        if environment("GITHUB_ACTIONS").as_deref() != Some("true") {
            return Ok(());
        }
        for (variable, text) in [
            ("GITHUB_OUTPUT", self.outputs()),
            ("GITHUB_STEP_SUMMARY", self.table()),
        ] {
            if let Some(file) = environment(variable).filter(|file| !file.is_empty()) {
                append(Path::new(&file), &text)
                    .doing(|| format!("writing to {file} of {variable}"))?;
            }
        }
        Ok(())
    }

    fn outputs(&self) -> String {
        let mut text = format!("status={}\n", self.status);
        if let Some(id) = self.id {
            text += &format!("deployment_id={id}\n");
        }
        if let Some(project) = &self.project {
            text += &format!("project={project}\n");
        }
        text
    }

    fn table(&self) -> String {
        let name = self.project.as_ref().map_or("", |project| project.as_str());
        let mut text = format!("### gangplank: {}\n\n| | |\n| --- | --- |\n", escaped(name));
        let id = self.id.map(|id| id.to_string());
        let rows = [
            ("Status", Some(self.status)),
            ("Deployment", id.as_deref()),
            ("Took", self.took.as_deref()),
            ("Message", Some(self.message.as_str())),
        ];
        for (name, value) in rows {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                text += &format!("| {name} | {} |\n", escaped(value));
            }
        }
        text + "\n"
    }
}

fn word<T: std::str::FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

/// A text that means nothing to a reader of Markdown, in one line.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for sign in text.chars() {
        if sign.is_control() {
            out.push(' ');
            continue;
        }
        if sign.is_ascii_punctuation() {
            out.push('\\');
        }
        out.push(sign);
    }
    out
}

fn append(file: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::NoResult;
    use serde_json::json;

    const ID: &str = "01a21984-2f7b-7e92-ae2b-e92461d5041a";

    #[test]
    fn outputs_are_words_and_the_table_means_nothing_else() {
        let done = json!({"deployment_id": ID, "project": "shop", "message": "a|b <i>", "elapsed_ms": 1200});
        let summary = DeploymentSummary::of(&Ok(done), None);
        assert_eq!(
            summary.outputs(),
            format!("status=success\ndeployment_id={ID}\nproject=shop\n")
        );
        let table = summary.table();
        assert!(table.contains("| Took | 1\\.2s |\n"), "{table}");
        assert!(table.contains("| Message | a\\|b \\<i\\> |\n"), "{table}");
        let hostile =
            json!({"deployment_id": "x\nstatus=success", "project": "a\nb", "status": "x\ny"});
        let summary = DeploymentSummary::of(&Ok(hostile), None);
        assert_eq!(summary.outputs(), "status=success\n");
    }

    #[test]
    fn a_failure_has_its_status() {
        let table = [
            (Exit::Refused, Some("install_failed"), "failed"),
            (Exit::Refused, Some("cancelled"), "cancelled"),
            (Exit::Refused, Some("unhealthy"), "rolled_back"),
            (Exit::Unknown, None, "unknown"),
            (Exit::Interrupted, None, "unknown"),
            (Exit::Unreachable, None, "failed"),
        ];
        for (exit, code, status) in table {
            let mut failed = NoResult::new(exit, "line 1\n| line 2");
            failed.code = code.map(str::to_owned);
            let project = "shop".parse().ok();
            let summary = DeploymentSummary::of(&Err(failed.into()), project);
            assert_eq!(
                summary.outputs(),
                format!("status={status}\nproject=shop\n")
            );
            assert!(
                summary
                    .table()
                    .ends_with("| Message | line 1 \\| line 2 |\n\n")
            );
        }
    }
}
