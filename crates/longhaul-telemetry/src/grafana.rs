//! Dashboards as Grafana takes them: the JSON of its version 10 and later.
//!
//! Pure. Places are given from left to right; nothing is fetched from elsewhere, and the data source is chosen at the head.

use serde_json::{Value, json};

use crate::dashboards::{Dashboard, Panel, Shape, Variable};

/// Columns of Grafana's grid.
const COLUMNS: u32 = 24;

/// The dashboard as a JSON document, with a line end.
#[must_use]
pub fn render(dashboard: &Dashboard) -> String {
    let mut place = Place::default();
    let panels: Vec<_> = dashboard.panels.iter().map(|panel| place.next(panel)).collect();
    let variables: Vec<_> = std::iter::once(source()).chain(dashboard.variables.iter().map(variable)).collect();
    let document = json!({
        "uid": format!("longhaul-{}", dashboard.name),
        "title": dashboard.title,
        "tags": ["longhaul"],
        "schemaVersion": 39,
        "editable": true,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [{
            "type": "dashboards", "tags": ["longhaul"], "title": "Longhaul", "asDropdown": false, "keepTime": true, "includeVars": true,
        }],
        "templating": {"list": variables},
        "panels": panels,
    });
    format!("{document:#}\n")
}

fn source() -> Value {
    json!({"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"})
}

fn variable(variable: &Variable) -> Value {
    let query = format!("label_values({}, {})", variable.of, variable.label);
    json!({
        "name": variable.name, "label": variable.name, "type": "query", "datasource": datasource(), "query": query, "definition": query,
        "refresh": 2, "sort": 1, "multi": true, "includeAll": true, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
    })
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// Where the next panel goes.
#[derive(Default)]
struct Place {
    x: u32,
    y: u32,
    row_height: u32,
    id: u32,
}

impl Place {
    fn next(&mut self, panel: &Panel) -> Value {
        let (kind, width, height) = match panel.shape {
            Shape::Now => ("stat", COLUMNS / 4, 4),
            Shape::Lines => ("timeseries", COLUMNS / 2, 8),
            Shape::Table => ("table", COLUMNS, 8),
        };
        if self.x + width > COLUMNS {
            (self.x, self.y, self.row_height) = (0, self.y + self.row_height, 0);
        }
        let grid = json!({"x": self.x, "y": self.y, "w": width, "h": height});
        (self.x, self.row_height, self.id) = (self.x + width, self.row_height.max(height), self.id + 1);
        let is_table = panel.shape == Shape::Table;
        json!({
            "id": self.id, "type": kind, "title": panel.title, "datasource": datasource(), "gridPos": grid,
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "options": if panel.shape == Shape::Lines { json!({"tooltip": {"mode": "multi", "sort": "desc"}}) } else { json!({}) },
            "targets": panel.queries.iter().zip('A'..).map(|((expr, legend), at)| json!({
                "refId": at.to_string(), "expr": expr, "legendFormat": legend, "datasource": datasource(),
                "instant": panel.shape != Shape::Lines, "range": panel.shape == Shape::Lines,
                "format": if is_table { "table" } else { "time_series" },
            })).collect::<Vec<_>>(),
            "transformations": if is_table { columns(panel) } else { json!([]) },
        })
    }
}

/// One row for each series, with a column for each query.
fn columns(panel: &Panel) -> Value {
    let hidden = ["Time", "__name__", "job"].map(|name| (name.to_owned(), Value::from(true)));
    let named = panel.queries.iter().zip('A'..).map(|((_, title), at)| (format!("Value #{at}"), Value::from(*title)));
    json!([
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {
            "excludeByName": hidden.into_iter().collect::<serde_json::Map<_, _>>(),
            "renameByName": named.collect::<serde_json::Map<_, _>>(),
        }},
    ])
}
