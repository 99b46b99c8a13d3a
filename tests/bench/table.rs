//! The table: one row a figure, with what it was to be.

/// A figure's upper or lower bound.
#[derive(Clone, Copy)]
pub(crate) enum Budget {
    /// Only for comparison.
    None,
    /// At most so much.
    Most(f64),
    /// At least so much.
    Least(f64),
}

/// Prints the head.
pub(crate) fn head() {
    row("what", "ours", "beside", "ratio", "wanted");
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
    let verdict = |relation: &str, bound: f64, kept: bool| {
        format!("{relation} {bound} {}", if kept { "ok" } else { "MISSED" })
    };
    let wanted = match budget {
        Budget::None => String::new(),
        Budget::Least(least) => verdict(">=", least, figure >= least),
        Budget::Most(most) => verdict("<=", most, figure <= most),
    };
    row(what, ours, beside, &ratio, &wanted);
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

fn row(what: &str, ours: &str, beside: &str, ratio: &str, wanted: &str) {
    let row = format!("{what:<38} {ours:>13} {beside:>13} {ratio:>6}  {wanted}");
    println!("{}", row.trim_end());
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
