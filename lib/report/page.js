// Headings sort their table: cells by data-v where they have one, else by their text.
document.querySelectorAll("table.sortable").forEach(table => {
    const headings = table.querySelectorAll("th");
    const key = cell => {
        const v = cell.dataset.v;
        return v === undefined ? cell.textContent : v === "" ? -Infinity : +v;
    };
    headings.forEach((heading, column) => {
        const button = document.createElement("button");
        button.type = "button";
        button.append(...heading.childNodes);
        heading.append(button);
        button.addEventListener("click", () => {
            const up = heading.getAttribute("aria-sort") === "descending" ? 1 : -1;
            headings.forEach(h => h.removeAttribute("aria-sort"));
            heading.setAttribute("aria-sort", up > 0 ? "ascending" : "descending");
            const body = table.tBodies[0];
            const rows = Array.from(body.rows, row => [key(row.cells[column]), row]);
            rows.sort(([a], [b]) => up * (a < b ? -1 : a > b ? 1 : 0));
            body.append(...rows.map(([, row]) => row));
        });
    });
});
