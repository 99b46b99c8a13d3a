//! Which deployment is meant by a word that is not its whole id.
//!
//! The client finds that in the server's own lists, so that it works with every server, older ones and Harper's too. What a
//! word could mean twice is refused, with all that it could mean: nothing is done to a deployment by a guess.

use serde_json::Value;

use crate::api::error::Exit;
use crate::api::name::{DeploymentId, Project};
use crate::api::operation::{List, Operation};
use crate::cli::arguments::value::{DeploymentWord, LATEST, beginning};
use crate::cli::session::{CommandError, Session};
use crate::client::NoResult;

/// So many deployments are asked for at once. Harper sends the events of each along.
const PAGE: u64 = 200;

/// More pages than this are not asked for: a server keeps 200 deployments of each component.
const PAGES_MAX: u64 = 1000;

/// So many are named where a word means several: a few lines of a terminal.
const NAMED_MAX: usize = 10;

/// A deployment in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    id: DeploymentId,
    project: String,
    status: String,
}

impl Listed {
    /// A row, if it is one: another server may call its deployments differently.
    fn of(row: &Value) -> Option<Listed> {
        let text = |key: &str| Some(row.get(key)?.as_str()?.to_owned());
        Some(Listed {
            id: text("deployment_id")?.parse().ok()?,
            project: text("project").unwrap_or_default(),
            status: text("status").unwrap_or_default(),
        })
    }
}

/// What is done with a deployment that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It is looked at.
    Look,
    /// It, or what is live, is changed.
    Change,
}

impl Session<'_> {
    /// The deployment that is meant; of one component, if that is known.
    pub(crate) fn find(
        &mut self,
        word: &DeploymentWord,
        of: Option<&Project>,
        purpose: Purpose,
    ) -> Result<DeploymentId, CommandError> {
        let word = match word {
            DeploymentWord::Id(id) => return Ok(*id),
            DeploymentWord::Other(word) => word,
        };
        let meant = self.meant(word, of, purpose)?;
        let refused = |why: String| Err(NoResult::new(Exit::Refused, why).into());
        match meant.as_slice() {
            [] => refused(none(word, of)),
            [one] => {
                if purpose == Purpose::Change {
                    let Listed { id, project, .. } = one;
                    let said = match word == project.as_str() {
                        true => format!("the newest deployment of {project} is {id}"),
                        false => format!("{word} is deployment {id} of {project}"),
                    };
                    self.screen.remark(&said);
                }
                Ok(one.id)
            }
            several => refused(ambiguous(word, several)),
        }
    }

    /// All that a word may mean.
    fn meant(
        &mut self,
        word: &str,
        of: Option<&Project>,
        purpose: Purpose,
    ) -> Result<Vec<Listed>, CommandError> {
        let within = of.map(Project::as_str);
        let mut meant = Vec::new();
        if word == LATEST {
            let newest = self.page(within, 0, PAGE)?.0;
            let is_other = |one: &&Listed| one.project != newest[0].project;
            let other = newest.iter().find(is_other);
            if let Some(other) = other.filter(|_| purpose == Purpose::Change) {
                // Somebody else may have deployed meanwhile.
                let why = format!(
                    "`latest` may be of {}, of {} or another component: name the one that is meant",
                    newest[0].project, other.project
                );
                return Err(NoResult::new(Exit::Refused, why).into());
            }
            meant.extend(newest.into_iter().next());
        }
        if let Some(begin) = beginning(word) {
            let fits = |one: &Listed| one.id.to_string().replace('-', "").starts_with(&begin);
            for page in 0..PAGES_MAX {
                let (rows, more) = self.page(within, page * PAGE, PAGE)?;
                meant.extend(rows.into_iter().filter(fits));
                if !more {
                    break;
                }
            }
        }
        let newest = self.page(Some(word), 0, 1)?.0.into_iter().next();
        // A row may have moved to the next page while the pages were asked for.
        meant.extend(newest);
        meant.sort_unstable_by_key(|one| one.id);
        meant.dedup_by_key(|one| one.id);
        Ok(meant)
    }

    /// A piece of a list, newest first, and whether there is more of it.
    fn page(
        &mut self,
        project: Option<&str>,
        offset: u64,
        limit: u64,
    ) -> Result<(Vec<Listed>, bool), CommandError> {
        let list = List {
            project: project.map(str::to_owned),
            limit: Some(limit),
            offset,
            ..List::default()
        };
        let answer = self.call(&Operation::ListDeployments(list).into())?;
        let rows = answer.get("deployments").and_then(Value::as_array);
        let rows = rows.map(Vec::as_slice).unwrap_or_default();
        let total = answer.get("total").and_then(Value::as_u64).unwrap_or(0);
        let more = !rows.is_empty() && offset + limit < total;
        Ok((rows.iter().filter_map(Listed::of).collect(), more))
    }
}

fn none(word: &str, of: Option<&Project>) -> String {
    let of = of.map_or(String::new(), |project| format!(" of {project}"));
    if word == LATEST {
        return format!("there is no deployment{of} yet");
    }
    if beginning(word).is_some() {
        return format!(
            "no deployment{of} has an id that begins with {word}, and no component has this name"
        );
    }
    let id = word
        .bytes()
        .all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let hint = match id {
        true => ", and the beginning of an id needs 8 characters or more",
        false => "",
    };
    format!("no component {word} has a deployment here{hint}; `gangplank list` shows all")
}

fn ambiguous(word: &str, several: &[Listed]) -> String {
    let shown = several.iter().rev().take(NAMED_MAX);
    let shown = shown.map(|one| format!("\n  {}  {}  {}", one.id, one.project, one.status));
    let more = match several.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    format!(
        "{word} may mean several deployments; give more of the id:{}{more}",
        shown.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_found_is_told() {
        let id = |n: u32| format!("01976e6c-1c2b-7000-8000-{n:012}");
        let row = |n: u32| json!({"deployment_id": id(n), "project": "app", "status": "success"});
        assert_eq!(Listed::of(&json!({"id": id(1)})), None);
        let listed: Vec<Listed> = (0..12).filter_map(|n| Listed::of(&row(n))).collect();
        let said = ambiguous("01976e6c", &listed[..2]);
        let expected = format!(
            "01976e6c may mean several deployments; give more of the id:\n  {}  app  success\n  {}  app  success",
            id(1),
            id(0)
        );
        assert_eq!(said, expected);
        let said = ambiguous("01976e6c", &listed);
        assert!(said.ends_with("\n  and 2 more"), "{said}");
        let app = "app".parse().ok();
        let table = [
            (LATEST, None, "there is no deployment yet"),
            (LATEST, app.as_ref(), "there is no deployment of app yet"),
            (
                "01976e6c",
                None,
                "no deployment has an id that begins with 01976e6c, and no",
            ),
            (
                "01976e6",
                None,
                "no component 01976e6 has a deployment here, and the beginning",
            ),
            (
                "shop",
                None,
                "no component shop has a deployment here; `gangplank list`",
            ),
        ];
        for (word, of, expected) in table {
            let said = none(word, of);
            assert!(said.starts_with(expected), "{said}");
        }
    }
}
