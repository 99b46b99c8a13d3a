//! `op`: any operation, whether this client knows it or not.

use crate::api::operation::{Fields, OperationCall};
use crate::cli::arguments::{ClientOptions, CommandLine, Usage, finish_words, leftover, value};
use crate::cli::commands::{CommandSpec, Job, Parse};

pub(super) const COMMAND: CommandSpec = CommandSpec {
    words: &["op"],
    usage: "op NAME key=value...",
    summary: "any operation; its answer on stdout",
    help: "\
usage: gangplank op NAME [key=value...] [FLAGS]

Sends any operation, and prints its answer.
",
    example: "gangplank op list_deployments project=my-app limit=3",
    parse: Parse::Client(parse),
};

fn parse(line: CommandLine, options: &mut ClientOptions) -> Result<Job, Usage> {
    let (words, rest) = value::split(finish_words(line)?)?;
    let mut rest = rest.into_iter();
    let name = rest
        .next()
        .ok_or_else(|| Usage::new("`op` needs the NAME of an operation"))?;
    if let Some(more) = rest.next() {
        return Err(leftover(&more));
    }
    let name = name.into_string().map_err(|name| leftover(&name))?;
    let mut fields = Fields::new();
    let packing = value::add(words, &mut fields, options)?;
    if packing.any() {
        return Err(Usage::new(
            "skip_node_modules and skip_symlinks are for `deploy`, which packs a directory",
        ));
    }
    Ok(Job::Operation(OperationCall::new(&name, fields)))
}
