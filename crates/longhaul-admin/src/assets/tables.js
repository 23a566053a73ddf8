// Tables whose rows are kept and changed: what did not change is not touched, so that focus, selection and screen readers stay calm.

function write(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
}

function head(table, columns) {
  const row = table.createTHead().insertRow();
  for (const column of columns) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = column.title;
    if (column.number) cell.className = "number";
    row.append(cell);
  }
  table.createTBody();
}

function body(row, columns) {
  columns.forEach((column, at) => {
    const cell = document.createElement(at === 0 ? "th" : "td");
    if (at === 0) cell.scope = "row";
    if (column.state) cell.append(document.createElement("span"));
    row.append(cell);
  });
}

// Fills a table. A column has a `title` and a `text(line)`; it may be a `number`, `long`, a `state(line)` (a class for its mark), or say
// when it is a `warn(line)`. `key(line)` names a row; `trouble(line)` marks it; `none` is said when there is no line.
export function fill(table, columns, lines, { key, trouble, none }) {
  if (!table.tHead) head(table, columns);
  const rows = new Map([...table.tBodies[0].rows].map((row) => [row.dataset.key, row]));
  let at = 0;
  for (const line of lines) {
    const name = key(line);
    let row = rows.get(name);
    rows.delete(name);
    if (!row) {
      row = document.createElement("tr");
      row.dataset.key = name;
      body(row, columns);
    }
    if (table.tBodies[0].rows[at] !== row) table.tBodies[0].insertBefore(row, table.tBodies[0].rows[at] ?? null);
    at += 1;
    row.className = trouble?.(line) ? "trouble" : "";
    columns.forEach((column, index) => {
      const cell = row.cells[index];
      const text = String(column.text(line) ?? "");
      write(column.state ? cell.firstChild : cell, text);
      if (column.state) cell.firstChild.className = `state ${column.state(line)}`;
      else cell.className = [column.number && "number", column.long && "long", column.warn?.(line) && "warn"].filter(Boolean).join(" ");
    });
  }
  rows.forEach((row) => row.remove());
  if (at === 0) {
    const cell = table.tBodies[0].insertRow().insertCell();
    Object.assign(cell, { colSpan: columns.length, className: "empty", textContent: none });
  }
}
