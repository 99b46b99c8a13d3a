//! The table: one row a figure, with what it was to be.

/// A figure's upper or lower bound, now and later.
#[derive(Clone, Copy)]
pub(crate) enum Budget {
    /// Only for comparison.
    None,
    /// At most so much: first, and then.
    Most(Option<f64>, Option<f64>),
    /// At least so much.
    Least(f64),
}

/// Prints the head.
pub(crate) fn head() {
    row("what", "ours", "beside", "ratio", "first", "then");
}

/// Prints a row; `figure` is what the budget is about.
pub(crate) fn line(
    what: &str,
    ours: &str,
    beside: &str,
    ratio: Option<f64>,
    figure: f64,
    budget: Budget,
) {
    let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
    let (first, then) = match budget {
        Budget::None => (String::new(), String::new()),
        Budget::Least(least) => (verdict(">=", Some(least), figure >= least), String::new()),
        Budget::Most(first, then) => {
            let most = |bound: Option<f64>| {
                verdict("<=", bound, bound.is_some_and(|bound| figure <= bound))
            };
            (most(first), most(then))
        }
    };
    row(what, ours, beside, &ratio, &first, &then);
}

/// A row without a pipe beside it.
pub(crate) fn alone(what: &str, figure: f64, unit: &str, budget: Budget) {
    let digits = if figure >= 1000.0 { 0 } else { 2 };
    line(
        what,
        &format!("{figure:.digits$} {unit}"),
        "",
        None,
        figure,
        budget,
    );
}

fn verdict(relation: &str, bound: Option<f64>, kept: bool) -> String {
    bound.map_or(String::new(), |bound| {
        format!("{relation} {bound} {}", if kept { "ok" } else { "MISSED" })
    })
}

fn row(what: &str, ours: &str, beside: &str, ratio: &str, first: &str, then: &str) {
    let row = format!("{what:<38} {ours:>13} {beside:>13} {ratio:>6}  {first:<16} {then}");
    println!("{}", row.trim_end());
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
