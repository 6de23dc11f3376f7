//! `orch explain`: why a Pod waits for a node, rule by rule, and what would help.

use http::Method;

use super::args::{ExplainArgs, ExplainWhat};
use super::{Failure, output, target};
use crate::server::scheduler::explain::{Explanation, PATH};

/// Runs the command.
pub(crate) fn run(args: ExplainArgs) -> Result<(), Failure> {
    let ExplainWhat::Pod { pod, target } = args.what;
    let (namespace, name) = pod.split_once('/').unwrap_or(("default", &pod));
    let path = format!("{PATH}{namespace}/{name}");
    let answer = target::with_client(&target, |client| async move {
        let answer = client.request_json(Method::GET, &path, None).await?;
        serde_json::from_value(answer).map_err(|error| anyhow::anyhow!(error).into())
    })?;
    output::line(render(&answer).trim_end());
    Ok(())
}

fn render(answer: &Explanation) -> String {
    let mut text = format!("pod {}: {}\n", answer.pod, answer.summary);
    if let Some(change) = &answer.change {
        text.push_str(&format!("smallest change: {change}\n"));
    }
    if answer.nodes.is_empty() {
        return text;
    }
    let header = ["NODE", "RULE", "REASON", "FIGURES"].map(str::to_owned);
    let mut rows = vec![header.to_vec()];
    for node in &answer.nodes {
        if node.refusals.is_empty() {
            rows.push(vec![node.name.clone(), "-".to_owned(), "fits".to_owned()]);
        }
        for refusal in &node.refusals {
            rows.push(vec![
                node.name.clone(),
                refusal.rule.clone(),
                refusal.reasons.join(", "),
                refusal.figures.join(", "),
            ]);
        }
    }
    text.push('\n');
    text.push_str(&output::table(&rows));
    if answer.more_nodes > 0 {
        text.push_str(&format!("… and {} more nodes\n", answer.more_nodes));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::scheduler::explain::{Node, Refusal};

    #[test]
    fn the_change_comes_first_and_every_rule_has_a_line() {
        let refusal = Refusal {
            rule: "NodeResourcesFit".into(),
            reasons: vec!["Insufficient cpu".into()],
            figures: vec!["needs 2 cpu, 0.5 free of 4".into()],
            may_preempt: true,
        };
        let text = render(&Explanation {
            pod: "default/web".into(),
            node: None,
            summary: "none of 1 nodes takes it".into(),
            change: Some("on n1: ask for 0.5 cpu instead of 2".into()),
            nodes: vec![Node {
                name: "n1".into(),
                refusals: vec![refusal],
            }],
            more_nodes: 3,
        });
        assert!(
            text.starts_with("pod default/web: none of 1 nodes takes it\nsmallest change: on n1")
        );
        assert!(text.contains("needs 2 cpu, 0.5 free of 4"), "{text}");
        assert!(text.ends_with("… and 3 more nodes\n"), "{text}");
    }
}
