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

// What other scripts of a page use: document.aq.copy(button, text), document.aq.tips(svg).
document.aq = {};
document.aq.copy = (button, text, old) => {
    const label = button.dataset.label || button.textContent;
    button.dataset.label = label;
    const done = ok => {
        button.textContent = ok ? "Copied" : "Press Ctrl+C";
        setTimeout(() => { button.textContent = label; }, 1500);
    };
    const by_hand = old || (() => { // where a page may not use the clipboard
        const area = document.createElement("textarea");
        area.value = text;
        document.body.append(area);
        area.select();
        const ok = document.execCommand("copy");
        area.remove();
        return ok;
    });
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => done(true), () => done(by_hand()));
    else done(by_hand());
};
// A button that copies, before the text it copies.
document.querySelectorAll("details.copy").forEach(box => {
    const summary = box.querySelector("summary"), text = box.querySelector("pre").textContent;
    const label = "Copy " + summary.textContent, button = document.createElement("button");
    const wrap = document.createElement("div");
    button.type = "button";
    button.className = "do";
    button.textContent = label;
    button.addEventListener("click", () => document.aq.copy(button, text, () => {
        box.open = true;
        getSelection().selectAllChildren(box.querySelector("pre"));
        return document.execCommand("copy");
    }));
    summary.textContent = "show";
    summary.setAttribute("aria-label", "Show the " + label.slice(5));
    box.before(wrap);
    wrap.append(button, box);
});
// What a shape of a picture means: by pointer, by touch, and with the arrow keys.
(() => {
    const tip = document.createElement("div");
    tip.id = "tip";
    tip.hidden = true;
    tip.setAttribute("role", "status");
    document.body.append(tip);
    let lit = null;
    const hide = () => {
        if (lit) lit.classList.remove("lit");
        lit = null;
        tip.hidden = true;
    };
    const show = shape => {
        hide();
        lit = shape;
        shape.classList.add("lit");
        tip.textContent = shape.dataset.tip;
        tip.hidden = false;
        const at = shape.getBoundingClientRect(), size = tip.getBoundingClientRect();
        const middle = at.left + Math.min(at.width, innerWidth) / 2 - size.width / 2;
        tip.style.left = Math.max(6, Math.min(innerWidth - size.width - 6, middle)) + "px";
        tip.style.top = (at.top > size.height + 10 ? at.top - size.height - 6 : Math.min(at.bottom + 6, innerHeight - 40)) + "px";
    };
    document.aq.tips = svg => {
        svg.querySelectorAll("title").forEach(title => {
            title.parentNode.dataset.tip = title.textContent;
            title.remove();
        });
        const shapes = [...svg.querySelectorAll("[data-tip]")];
        if (!shapes.length) return;
        svg.addEventListener("pointerover", e => e.target.dataset.tip ? show(e.target) : hide());
        svg.addEventListener("pointerleave", hide);
        svg.addEventListener("click", e => { if (e.target.dataset.tip) show(e.target); });
        if (svg.getAttribute("aria-hidden")) return;
        svg.setAttribute("tabindex", "0");
        svg.setAttribute("aria-label", svg.getAttribute("aria-label") + ". Arrow keys read the values.");
        svg.addEventListener("blur", hide);
        svg.addEventListener("keydown", e => {
            const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[e.key];
            if (e.key === "Escape") hide();
            if (!step) return;
            e.preventDefault();
            const at = shapes.indexOf(lit), n = shapes.length;
            show(shapes[at < 0 ? (step > 0 ? 0 : n - 1) : (at + step + n) % n]);
        });
    };
    document.querySelectorAll("svg.aq").forEach(document.aq.tips);
})();
