//! `ui`: prints an address that signs a browser in to the page of the server.

use serde_json::Value;

use crate::api::operation::Operation;
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, finish};
use crate::cli::commands::{CommandSpec, Job, Parse};
use crate::cli::session::CommandError;

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["ui"],
    usage: "ui",
    summary: "print an address of the page that signs a browser in",
    help: "\
usage: gangplank ui [--end] [FLAGS]

Prints the address of the server's page with a code in it that signs a browser
in, once and within a minute. The session lasts 12 hours, may do what the token
may that asked for it, and ends with that token. On the host itself, where no
token is needed, the session may do everything.

  --end                 end the sessions instead: those of the token that asks,
                        or all of them over the unix socket
",
    example: "gangplank ui",
    parse: Parse::Client(parse),
};

fn parse(mut line: CommandLine, _: &mut ClientOptions) -> Result<Job, Usage> {
    let end = line.contains("--end");
    finish(line)?;
    if end {
        return Ok(Job::Operation(Operation::EndPageSessions.into()));
    }
    Ok(Job::run(|context| {
        let own = context.client.web_address();
        let answer = context.session()?.call(&Operation::CreatePageCode.into())?;
        let address = own.or_else(|| of_server(&answer)).ok_or_else(|| {
            CommandError::usage("the server listens on a unix socket alone, where no browser comes")
        })?;
        let code = answer["code"].as_str().unwrap_or_default();
        Ok(Some(Value::from(format!("{address}/#code={code}"))))
    }))
}

/// The first address that the server listens on. One that stands for all of the host's is asked by the loopback one.
fn of_server(answer: &Value) -> Option<String> {
    let all = answer["addresses"].as_array()?;
    let address = all
        .iter()
        .filter_map(Value::as_str)
        .find(|address| address.starts_with("http"))?;
    Some(
        address
            .replacen("://0.0.0.0:", "://127.0.0.1:", 1)
            .replacen("://[::]:", "://[::1]:", 1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_browser_is_sent_where_it_can_go() {
        let table = [
            (
                json!(["unix:/r/run/gangplank.sock", "http://0.0.0.0:9925"]),
                Some("http://127.0.0.1:9925"),
            ),
            (json!(["https://[::]:1"]), Some("https://[::1]:1")),
            (json!(["http://10.0.0.1:80"]), Some("http://10.0.0.1:80")),
            (json!(["unix:/r"]), None),
            (json!(null), None),
        ];
        for (addresses, address) in table {
            let answer = json!({ "addresses": addresses });
            assert_eq!(of_server(&answer).as_deref(), address, "{answer}");
        }
    }
}
