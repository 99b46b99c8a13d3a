//! The dialect of Harper servers: what they cannot do is refused before anything is sent, and what they read otherwise is
//! written as they read it.

pub(crate) mod find;
pub(crate) mod hash;
pub(crate) mod legacy;
pub(crate) mod replay;

use serde_json::Value;

use crate::api::error::Exit;
use crate::api::json;
use crate::api::operation::{OperationCall, OperationName, is_known};
use crate::client::NoResult;
use crate::client::kind::ServerKind;

/// Whether a Harper server has to be told from ours before this is asked: it does not know the operation, or reads or
/// answers it otherwise. What is left is sent to either, and a refusal says enough.
pub(crate) fn differs(call: &OperationCall) -> bool {
    match call.name() {
        Some(OperationName::DropComponent) => purges(call),
        Some(
            OperationName::ListDeployments
            | OperationName::GetDeployment
            | OperationName::RegistrationInfo
            | OperationName::SystemInformation,
        )
        | None => false,
        Some(_) => true,
    }
}

fn purges(call: &OperationCall) -> bool {
    call.fields().get("purge") == Some(&Value::Bool(true))
}

/// An operation as a server takes it, and what its user should know.
#[derive(Debug)]
pub(crate) struct FittedCall {
    pub(crate) call: OperationCall,
    pub(crate) remarks: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// The operation as this server takes it.
///
/// # Errors
/// When it cannot do it. Nothing has been sent then.
pub(crate) fn fit(kind: &ServerKind, call: &OperationCall) -> Result<FittedCall, NoResult> {
    let mut fitted = FittedCall {
        call: call.clone(),
        remarks: Vec::new(),
        warnings: Vec::new(),
    };
    if *kind == ServerKind::Gangplank {
        return Ok(fitted);
    }
    if let Some(why) = beyond(kind, call) {
        let message = format!("{kind} cannot do that: {why}");
        return Err(NoResult::new(Exit::Refused, message));
    }
    if call.name() == Some(OperationName::DeployComponent) {
        fit_deploy(&mut fitted);
        if matches!(kind, ServerKind::Legacy(_)) {
            let restarts = fitted.call.fields().get("restart");
            let restarts = restarts.is_some_and(|restart| restart != &Value::Bool(false));
            let then = match restarts {
                true => "; then it restarts, and refuses connections for some seconds",
                false => "",
            };
            fitted.remarks.push(format!(
                "{kind} tells nothing until the deployment has ended{then}"
            ));
        }
    }
    Ok(fitted)
}

/// Why it cannot be done there.
fn beyond(kind: &ServerKind, call: &OperationCall) -> Option<String> {
    let name = call.name()?;
    let known = match name {
        OperationName::GetDeployment | OperationName::ListDeployments => {
            !matches!(kind, ServerKind::Legacy(_))
        }
        OperationName::GetDeploymentPayload | OperationName::DeleteDeploymentPayload => {
            kind.has_payloads()
        }
        OperationName::DeployComponent
        | OperationName::DropComponent
        | OperationName::GetComponents
        | OperationName::RegistrationInfo
        | OperationName::SystemInformation => true,
        _ => false,
    };
    if !known {
        return Some(format!("it has no operation '{}'", name.word()));
    }
    let fields = call.fields();
    let given = |field: &str| fields.get(field).is_some_and(|value| !value.is_null());
    if name == OperationName::DeployComponent {
        // It knows neither field, and would make live what is not to be live.
        if fields.get("activate") == Some(&Value::Bool(false)) {
            return Some("what is deployed is live at once (--no-activate)".to_owned());
        }
        if given("deployment_id") {
            return Some("it does not keep releases (deployment_id)".to_owned());
        }
    }
    if name == OperationName::DropComponent && purges(call) {
        return Some("it keeps what --purge would remove".to_owned());
    }
    None
}

fn fit_deploy(fitted: &mut FittedCall) {
    let mut fields = fitted.call.fields().clone();
    if fields.get("restart") == Some(&Value::from("auto")) {
        fields.remove("restart");
        fitted.remarks.push(
            "Harper goes on with the old code until it is restarted: --restart does that"
                .to_owned(),
        );
    }
    if fields.remove("payload_sha256").is_some() {
        fitted
            .warnings
            .push("payload_sha256 has no effect: Harper does not compare it".to_owned());
    }
    if fields.remove("message").is_some() {
        fitted
            .warnings
            .push("--message has no effect: Harper does not keep it".to_owned());
    }
    // Nobody has asked for this one.
    fields.remove("source");
    for (name, value) in &mut fields {
        // What we do not know is typed by its looks, as Harper's own CLI does it.
        let decoded = match (&*value, is_known(name)) {
            (Value::String(text), false) => decoded(text),
            _ => None,
        };
        if let Some(decoded) = decoded {
            *value = decoded;
        }
    }
    fitted.call = OperationCall::new(OperationName::DeployComponent.word(), fields);
}

/// The text of a form's field. Harper decodes as JSON what looks like it, so a text that does is sent as a JSON string.
pub(crate) fn form_text(value: &Value) -> String {
    match value {
        Value::String(text) if is_decoded(text) => value.to_string(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

/// Whether Harper reads a field's text as JSON, by its first character or because it is one of JSON's words.
fn is_decoded(text: &str) -> bool {
    let first = text.bytes().next();
    first.is_some_and(|byte| matches!(byte, b'{' | b'[' | b'"' | b'-' | b'0'..=b'9'))
        || matches!(text, "true" | "false" | "null")
}

fn decoded(text: &str) -> Option<Value> {
    is_decoded(text).then(|| json::from_text(text).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call(value: Value) -> OperationCall {
        let fields = value.as_object().unwrap().clone();
        let name = fields["operation"].as_str().unwrap().to_owned();
        OperationCall::new(&name, fields)
    }

    fn harper(version: &str) -> ServerKind {
        ServerKind::of(Some(&json!({ "version": version })))
    }

    #[test]
    fn what_harper_cannot_do_is_refused_and_gangplank_gets_it_as_it_is() {
        let table = [
            (
                json!({"operation": "deploy_component", "activate": false}),
                "--no-activate",
            ),
            (
                json!({"operation": "deploy_component", "deployment_id": "x"}),
                "deployment_id",
            ),
            (
                json!({"operation": "rollback_component"}),
                "rollback_component",
            ),
            (
                json!({"operation": "cancel_deployment"}),
                "cancel_deployment",
            ),
            (
                json!({"operation": "restart_component"}),
                "restart_component",
            ),
            (json!({"operation": "stop_component"}), "stop_component"),
            (json!({"operation": "get_logs"}), "get_logs"),
            (json!({"operation": "sync"}), "sync"),
            (json!({"operation": "set_env"}), "set_env"),
            (
                json!({"operation": "get_deployment_payload"}),
                "get_deployment_payload",
            ),
            (
                json!({"operation": "drop_component", "purge": true}),
                "--purge",
            ),
        ];
        for (value, why) in table {
            let call = call(value);
            assert!(differs(&call), "{why}");
            let refused = fit(&harper("5.1.14"), &call).unwrap_err();
            assert_eq!(refused.exit, Exit::Refused);
            assert!(
                refused.message.starts_with("Harper 5.1 cannot do that: ")
                    && refused.message.contains(why),
                "{}",
                refused.message
            );
            assert_eq!(fit(&ServerKind::Gangplank, &call).unwrap().call, call);
        }
        let list = call(json!({"operation": "list_deployments"}));
        assert!(fit(&harper("5.1.14"), &list).is_ok() && !differs(&list));
        assert!(fit(&harper("4.7.29"), &list).is_err());
        let payload = call(json!({"operation": "get_deployment_payload"}));
        assert!(fit(&harper("5.1.15"), &payload).is_ok());
    }

    #[test]
    fn a_deployment_is_written_as_harper_reads_it() {
        let asked = call(json!({
            "operation": "deploy_component", "project": "123", "restart": "auto", "payload_sha256": "00",
            "install_command": "true", "force": "true", "deployment_timeout": "60", "host": "a.example",
        }));
        let fitted = fit(&harper("5.1.14"), &asked).unwrap();
        assert_eq!(
            Value::Object(fitted.call.fields().clone()),
            json!({
                "operation": "deploy_component", "project": "123", "install_command": "true", "force": true,
                "deployment_timeout": 60, "host": "a.example",
            })
        );
        assert!(fitted.remarks[0].contains("--restart"), "{fitted:?}");
        assert!(fitted.warnings[0].contains("payload_sha256"), "{fitted:?}");
        let given = call(json!({"operation": "deploy_component", "restart": "rolling"}));
        let fitted = fit(&harper("5.1.14"), &given).unwrap();
        assert_eq!(fitted.call, given);
        assert!(fitted.remarks.is_empty());
        let fitted = fit(&harper("4.7.29"), &given).unwrap();
        assert_eq!(fitted.call, given);
        assert!(fitted.remarks[0].contains("tells nothing"), "{fitted:?}");
    }

    #[test]
    fn texts_that_look_like_json_are_sent_as_json() {
        let table = [
            (json!("123"), "\"123\""),
            (json!("true"), "\"true\""),
            (json!("null"), "\"null\""),
            (json!("-x"), "\"-x\""),
            (json!("{a"), "\"{a\""),
            (json!("[1]"), "\"[1]\""),
            (json!("\"q\""), "\"\\\"q\\\"\""),
            (json!("1.2.3"), "\"1.2.3\""),
            (json!("demo"), "demo"),
            (json!("truely"), "truely"),
            (json!(""), ""),
            (json!("a\nb"), "a\nb"),
            (json!(60), "60"),
            (json!(true), "true"),
            (json!({"a": 1}), "{\"a\":1}"),
        ];
        for (value, text) in table {
            assert_eq!(form_text(&value), text);
        }
    }
}
