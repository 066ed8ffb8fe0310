// The explorer: builds everything under #app from the data of the page. Lists of corners come from aq-report, which
// solved them; nothing here searches for a recipe.
(() => {
const D = JSON.parse(document.getElementById("data").textContent);
const G = D.groups, NONE = -1;
const state = {size: D.sizes.length - 1, a: null, b: null, next: "a", words: [], source: "mix", engine: "", at: 0, all: false};

// ---- small things ----
const el = (tag, attributes, ...children) => {
    const e = document.createElement(tag);
    for (const [k, v] of Object.entries(attributes || {}))
        if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
        else if (v !== null && v !== undefined && v !== false) e.setAttribute(k, v === true ? "" : v);
    e.append(...children.filter(c => c !== null && c !== undefined));
    return e;
};
const svg = (tag, attributes, ...children) => {
    const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [k, v] of Object.entries(attributes || {})) e.setAttribute(k, v);
    e.append(...children);
    return e;
};
const number = x => {
    if (x === null || x === undefined || !isFinite(x)) return "";
    if (x === 0) return "0";
    const size = Math.abs(x);
    if (size >= 1e-3 && size < 1e5) return String(+x.toPrecision(3));
    const [m, e] = x.toExponential(2).split("e");
    return m + "×10" + String(+e).replace(/./g, c => c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]);
};
const bytes = x => {
    let u = 0;
    while (u < 4 && x >= 999.5) { x /= 1000; u++; }
    return (u === 0 || x >= 99.95 ? x.toFixed(0) : x.toPrecision(3)) + " " + ["bytes", "kB", "MB", "GB", "TB"][u];
};
const bits = x => String(+x.toPrecision(4));
const cellName = c => D.pairs[c[0]] + "/" + D.granularities[c[1]];
const cellLink = c => [D.pairs[c[0]], D.granularities[c[1]], D.sizes[c[2]]].map(encodeURIComponent).join("/") + "/report.html";
const words = name => { // "INT4 weights with INT8 activations (w_group64)" for wint4_aint8/w_group64
    const m = /^w([a-z0-9]+)_a([a-z0-9]+)\/(.*)$/.exec(name);
    if (!m) return name;
    return m[1].toUpperCase() + " weights" + (m[2] === "fp16" ? "" : " with " + m[2].toUpperCase() + " activations") +
        (m[3] === "default" ? "" : " (" + m[3] + ")");
};
const formatClass = b => b < 7 ? "w4" : b < 15 ? "w8" : "zero";
const cells = () => D.cells.filter(c => c[2] === state.size);
const matches = c => state.words.every(w => cellName(c).toLowerCase().includes(w));
const sameCell = (x, y) => x && y && x[0] === y[0] && x[1] === y[1];
const find = c => c && D.cells.find(x => x[2] === state.size && sameCell(x, c));

// ---- frontiers: [{bits, score, bytes, options}] where options name the candidate of each group ----
const weightsOf = g => G[g][3];
const shareOf = g => G[g][5] || 1; // of them that the cost counts: experts under cost model active
const frontiers = new Map();
const frontierOf = source => {
    const key = source + " " + state.size + " " + (source === "mix" ? state.engine : cellName(state[source] || [0, 0]));
    if (frontiers.has(key)) return frontiers.get(key);
    let made = null;
    const f = D.frontiers.find(x => x.size === state.size && !x.engine);
    const served = D.frontiers.find(x => x.size === state.size && x.engine === state.engine);
    if (source === "mix" && served) {
        let now = [];
        made = {names: f.candidates.map(c => c[0]), bits: f.candidates.map(c => c[1]), corners: served.corners.map(([b, score, size, changes, ...kl]) => {
            now = now.slice();
            for (let i = 0; i < changes.length; i += 2) now[changes[i]] = changes[i + 1];
            return {bits: b, score, bytes: size, options: now, kl};
        })};
    } else if (find(state[source]) && f) {
        const c = find(state[source]);
        let now = G.map(() => 0), corners = [];
        const [nats, ...all] = c[8] || [[], null];
        const push = () => {
            let cost = f.fixed, score = 0, size = 0, own = 0;
            now.forEach((o, g) => {
                const b = o === NONE ? 16 : c[5];
                cost += weightsOf(g) * shareOf(g) * b / 16;
                size += weightsOf(g) * b / 8;
                if (o !== NONE) { score += c[6][g]; own += nats[g]; }
            });
            // the interval is as wide as that of the whole cell
            const kl = all[0] > 0 && own >= 0 ? all.map(x => own * x / all[0]) : [null];
            corners.push({bits: cost / f.weights * 16, score, bytes: size, options: now.slice(), kl});
        };
        push();
        c[7].forEach((g, i) => {
            now[g < 0 ? -1 - g : g] = NONE;
            if (!(c[7][i + 1] < 0)) push();
        });
        made = {names: [cellName(c)], bits: [c[5]], corners};
    }
    frontiers.set(key, made);
    return made;
};
const hatchesOf = f => { // formats of one colour get different hatchings, in the order in which the recipes use them
    const seen = {}, hatch = [];
    f.corners.forEach(c => c.options.forEach(o => {
        if (o === NONE || hatch[o] !== undefined) return;
        const k = formatClass(f.bits[o]);
        hatch[o] = seen[k] = (seen[k] === undefined ? -1 : seen[k]) + 1;
    }));
    return hatch;
};

// ---- matrix ----
const level = (x, low, high) => !(x > 0) ? -1 : Math.max(0, Math.min(23, Math.floor(24 * (high > low ? Math.log(x / low) / Math.log(high / low) : 1))));
const tileSvg = i => svg("svg", {class: "aq", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true"},
    svg("rect", {class: i < 0 ? "zero" : "s" + i, width: 1, height: 1}));
const dark = matchMedia("(prefers-color-scheme: dark)");
const choose = c => {
    if (sameCell(state.a, c)) { state.a = state.b; state.b = null; state.next = state.a ? "b" : "a"; }
    else if (sameCell(state.b, c)) { state.b = null; state.next = "b"; }
    else { state[state.next] = c; state.next = "b"; if (state.a && state.b) state.next = "b"; }
    if (!state.a && state.source === "a" || !state.b && state.source === "b") state.source = "mix";
    render();
};
const matrix = () => {
    const here = cells(), shown = here.filter(matches);
    const rows = [...new Set(shown.map(c => c[0]))].sort((x, y) => x - y), columns = [...new Set(shown.map(c => c[1]))].sort((x, y) => x - y);
    const positive = here.map(c => c[3]).filter(x => x > 0), low = Math.min(...positive), high = Math.max(...positive);
    if (!shown.length) return el("p", {}, "No cell matches the filter.");
    const body = el("tbody");
    rows.forEach((p, y) => {
        const tr = el("tr", {}, el("th", {scope: "row"}, D.pairs[p]));
        columns.forEach((g, x) => {
            const c = shown.find(s => s[0] === p && s[1] === g);
            if (!c) { tr.append(el("td", {class: "out", title: "left out or filtered"}, "–")); return; }
            const i = level(c[3], low, high), mark = sameCell(c, state.a) ? "A" : sameCell(c, state.b) ? "B" : null;
            tr.append(el("td", {}, el("button", {type: "button", class: "tile" + (i >= (dark.matches ? 12 : 10) ? " deep" : ""), "aria-pressed": String(!!mark),
                "aria-label": D.pairs[p] + ", " + D.granularities[g] + ": total " + number(c[3]) + (mark ? ", cell " + mark : ""),
                tabindex: x === 0 && y === 0 ? 0 : -1, "data-x": x, "data-y": y, "data-cell": cellName(c), onclick: () => choose(c)},
                tileSvg(i), mark ? el("b", {}, mark) : null, el("span", {}, number(c[3])))));
        });
        body.append(tr);
    });
    const table = el("table", {class: "matrix"}, el("caption", {class: "skip"}, "Total sensitivity by pair and granularity"),
        el("thead", {}, el("tr", {}, el("td", {}), ...columns.map(g => el("th", {scope: "col"}, ...D.granularities[g].split(/(?<=_)/).flatMap(w => [w, el("wbr")]))))), body);
    table.addEventListener("keydown", e => {
        const step = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1]}[e.key], t = e.target;
        if (!step || !t.dataset.x) return;
        e.preventDefault();
        let x = +t.dataset.x, y = +t.dataset.y, to = null;
        do {
            x += step[0]; y += step[1];
            to = table.querySelector(`[data-x="${x}"][data-y="${y}"]`);
        } while (!to && x >= 0 && y >= 0 && x < columns.length && y < rows.length);
        if (!to) return;
        t.tabIndex = -1; to.tabIndex = 0; to.focus();
    });
    const bar = svg("svg", {class: "aq", viewBox: "0 0 24 1", preserveAspectRatio: "none", "aria-hidden": "true"},
        ...Array.from({length: 24}, (_, i) => svg("rect", {class: "s" + i, x: i, width: 1.05, height: 1})));
    return el("div", {}, el("div", {class: "scroll", tabindex: "0", role: "group", "aria-label": "Matrix of cells"}, table),
        el("div", {class: "scale"}, el("span", {}, number(low)), bar, el("span", {}, number(high)), el("span", {}, "less to more sensitive"),
        document.getElementById("left-out") ? el("span", {}, "– left out: ", el("a", {href: "#left-out"}, "why")) : null), chosen());
};

const chosen = () => {
    const names = ["a", "b"].filter(k => state[k]).map(k => k.toUpperCase() + " is " + cellName(state[k]));
    return el("p", {id: "chosen", class: "soft", role: "status"}, names.length ? names.join(", ") + ". " : "Choose a tile to see its layers, and a second one to compare. ",
        names.length ? el("a", {href: "#compare"}, names.length > 1 ? "Compare their layers" : "See its layers") : "");
};

// ---- the recipe at a budget ----
// Pictures are laid out for their place, not scaled: text stays as large as it is.
const roomy = matchMedia("(min-width: 821px)");
const pictureWidth = () => roomy.matches ? 560 : Math.max(300, Math.min(560, document.getElementById("recipe").clientWidth));
const curve = f => {
    const W = pictureWidth(), H = 250, L = 52, R = 10, T = 26, B = 40, pts = f.corners.filter(c => c.score > 0);
    const out = svg("svg", {class: "aq", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "Score against size: " + f.corners.length + " corners"});
    if (pts.length < 2) return out;
    const lo = f.corners[0].bits, hi = f.corners[f.corners.length - 1].bits;
    const top = Math.ceil(Math.log10(pts[0].score)), low = Math.max(Math.floor(Math.log10(pts[pts.length - 1].score)), top - 8);
    const x = b => L + (W - L - R) * (b - lo) / (hi - lo || 1), y = s => T + (H - T - B) * (top - Math.max(Math.log10(s > 0 ? s : 1e-300), low)) / (top - low || 1);
    const step = Math.ceil((top - low) / 6);
    for (let e = low; e <= top; e += step)
        out.append(svg("line", {class: "grid", x1: L, x2: W - R, y1: y(10 ** e), y2: y(10 ** e)}),
            svg("text", {class: "small soft", x: L - 6, y: y(10 ** e) + 4, "text-anchor": "end"}, number(10 ** e).replace(/^1(\.00)?×/, "")));
    for (let b = Math.ceil(lo); b <= hi; b += hi - lo > 8 ? 2 : 1)
        out.append(svg("text", {class: "small soft", x: x(b), y: H - B + 17, "text-anchor": "middle"}, String(b)));
    out.append(svg("text", {class: "small soft", x: (L + W - R) / 2, y: H - 4, "text-anchor": "middle"}, "average bits per weight"),
        svg("text", {class: "small soft", x: 4, y: 14}, "total score, log scale; lower is better"));
    out.append(svg("path", {class: "curve l0", d: f.corners.map((c, i) => (i ? "L" : "M") + x(c.bits).toFixed(1) + " " + y(c.score).toFixed(1)).join("")}));
    const c = f.corners[state.at];
    out.append(svg("path", {class: "mark", d: `M${x(c.bits)} ${y(c.score) - 9}l9 9l-9 9l-9 -9Z`}));
    return out;
};
const strip = (f, hatch) => {
    const options = f.corners[state.at].options, blocks = Math.max(-1, ...G.map(g => g[1])) + 1;
    const kinds = [...new Set(G.map((g, i) => g[1] >= 0 ? g[2] : -1))].filter(k => k >= 0);
    const W = pictureWidth(), labels = kinds.map(k => W < 480 ? D.kinds[k].replace(/^.*\./, "") : D.kinds[k]);
    const L = Math.min(W / 3, 20 + 7 * Math.max(8, ...labels.map(t => t.length))), cell = Math.min(40, (W - L - 8) / Math.max(1, blocks)), row = 26;
    const out = svg("svg", {class: "aq", viewBox: `0 0 ${W} ${kinds.length * row + 40}`, role: "img", "aria-label": "Recipe: format of each layer"});
    labels.forEach((t, y) => out.append(svg("text", {x: L - 8, y: y * row + 36, "text-anchor": "end"}, t)));
    const every = Math.ceil(26 / cell);
    for (let b = 0; b < blocks; b += every) out.append(svg("text", {class: "small soft", x: L + (b + 0.5) * cell, y: 14, "text-anchor": "middle"}, String(b)));
    out.append(svg("text", {class: "small soft", x: L - 8, y: 14, "text-anchor": "end"}, "block"));
    G.forEach(([name, block, kind], g) => {
        const y = kinds.indexOf(kind), o = options[g];
        if (block < 0 || y < 0) return;
        const at = {x: L + block * cell, y: y * row + 20, width: Math.max(1, cell - 1), height: row - 3};
        const tip = name + ": " + (o === NONE ? "16 bits" : f.names[o] + ", " + bits(f.bits[o]) + " bits");
        out.append(svg("rect", {...at, class: o === NONE ? "zero" : formatClass(f.bits[o]), "data-tip": tip}));
        if (o !== NONE && hatch[o] % 6) out.append(svg("rect", {...at, class: "h" + hatch[o] % 6, "pointer-events": "none"}));
    });
    return out;
};
const swatch = (b, h) => svg("svg", {class: "aq swatch", width: 14, height: 14, "aria-hidden": "true"},
    svg("rect", {class: b === 16 ? "zero" : formatClass(b), width: 14, height: 14}), ...(h % 6 ? [svg("rect", {class: "h" + h % 6, width: 14, height: 14})] : []));
const copyButton = (label, text) => {
    const b = el("button", {type: "button", class: "do", onclick: () => document.aq.copy(b, text)}, label);
    return b;
};
const recipe = () => {
    const f = frontierOf(state.source), box = document.getElementById("recipe");
    box.textContent = "";
    if (!f) return;
    state.at = Math.max(0, Math.min(f.corners.length - 1, state.at));
    const c = f.corners[state.at], hatch = hatchesOf(f), used = new Map();
    c.options.forEach((o, g) => {
        const u = used.get(o) || {groups: 0, weights: 0};
        u.groups++; u.weights += weightsOf(g); used.set(o, u);
    });
    const order = [...used.keys()].sort((x, y) => (x === NONE ? 99 : f.bits[x]) - (y === NONE ? 99 : f.bits[y]) || x - y);
    const kept = used.get(NONE), before = G.reduce((s, g) => s + 2 * g[3], 0);
    const formats = order.filter(o => o !== NONE), each = formats.length > 4 ? 3 : formats.length;
    const parts = kept ? [`${kept.groups} of ${G.length} groups of layers ${kept.groups === 1 ? "stays" : "stay"} at 16 bits`] : [];
    formats.slice(0, each).forEach(o => parts.push(used.get(o).groups + (used.get(o).groups === 1 ? " takes " : " take ") + words(f.names[o])));
    if (each < formats.length) parts.push(formats.slice(each).reduce((s, o) => s + used.get(o).groups, 0) + " take other formats");
    const listed = parts.length > 1 ? parts.slice(0, -1).join(", ") + " and " + parts[parts.length - 1] : parts[0];
    const text = `At ${bits(c.bits)} bits per weight, ` + (!formats.length ? `all ${G.length} groups of layers stay at 16 bits` : kept ? listed :
        formats.length === 1 ? `all ${G.length} groups of layers take ${words(f.names[formats[0]])}` : `all ${G.length} groups of layers are quantized: ${listed}`) +
        `. ${bytes(before)} of weights become ${bytes(c.bytes)}.`;
    const range = document.getElementById("corner");
    range.max = f.corners.length - 1;
    range.value = state.at;
    range.setAttribute("aria-valuetext", bits(c.bits) + " bits per weight");
    const menu = G.map((g, i) => `- {match: ${JSON.stringify(g[4])}, pin: ${JSON.stringify(c.options[i] === NONE ? "NONE" : f.names[c.options[i]])}}\n`).join("");
    const mix = state.source === "mix", cell = mix ? null : find(state[state.source]);
    const command = "make -f pipelines/sweep.mk select BITS=" + c.bits + (mix ? ` GRANS="${D.granularities.join(" ")}" PAIRS="${D.pairs.join(" ")}"`
        : ` PAIRS=${D.pairs[cell[0]]} GRANS=${D.granularities[cell[1]]}`) + " SIZES=" + D.sizes[state.size] + " MODEL=" + D.model;
    box.append(el("p", {class: "answer", id: "says", "aria-live": "polite", "data-bits": c.bits, "data-score": c.score, "data-bytes": c.bytes}, text),
        el("p", {}, "Total score " + number(c.score) + (c.kl[0] === null ? "" : `, predicted divergence (KL) about ${number(c.kl[0])} nats per token (${number(c.kl[1])} to ${number(c.kl[2])})`) +
            `. Stop ${state.at + 1} of ${f.corners.length}.`),
        el("div", {class: "two"}, strip(f, hatch), curve(f)),
        el("div", {class: "scroll", tabindex: "0", role: "group", "aria-label": "Formats of this recipe"}, el("table", {}, el("thead", {}, el("tr", {},
            ...["format", "name", "bits", "groups", "size"].map((t, i) => el("th", {scope: "col", class: i > 1 ? "n" : i === 1 ? "more" : null}, t)))),
            el("tbody", {}, ...order.map(o => el("tr", {}, el("td", {}, swatch(o === NONE ? 16 : f.bits[o], o === NONE ? 0 : hatch[o]), " " + (o === NONE ? "not quantized" : words(f.names[o]))),
                el("td", {class: "name more"}, o === NONE ? "NONE" : f.names[o]), el("td", {class: "n"}, bits(o === NONE ? 16 : f.bits[o])),
                el("td", {class: "n"}, String(used.get(o).groups)), el("td", {class: "n"}, bytes(used.get(o).weights * (o === NONE ? 16 : f.bits[o]) / 8))))))),
        // with an engine the choice is narrower than what a list of pairs can say
        el("div", {class: "bar"}, mix && state.engine ? null : copyButton("Copy make command", command), copyButton("Copy recipe (menu for aq-select)", menu)));
    document.aq.tips(box.querySelector("svg[aria-label^=Recipe]"));
    document.documentElement.dataset.recipe = c.options.map(o => o === NONE ? "NONE" : f.names[o]).join(" ");
};
const budget = () => {
    const options = [["mix", "the best mix of all formats of this size"]];
    for (const k of ["a", "b"]) if (find(state[k])) options.push([k, "only " + k.toUpperCase() + ": " + cellName(state[k]) + ", or 16 bits"]);
    const engines = D.frontiers.filter(f => f.size === state.size && f.engine);
    if (state.engine && !engines.some(f => f.engine === state.engine)) state.engine = "";
    const move = d => { state.at += d; recipe(); };
    return el("section", {id: "budget", "aria-labelledby": "budget-h"}, el("h2", {id: "budget-h"}, "What fits a budget?"),
        el("p", {class: "soft"}, "Move the slider: each stop is a recipe that no other beats at its size, the one that aq-select finds for these bits. With an engine chosen, only formats that it computes as they were scored, or nearly so."),
        el("div", {class: "bar"}, el("label", {}, "Formats", el("select", {id: "source", onchange: e => { state.source = e.target.value; state.at = 1e9; nearest(8); recipe(); }},
            ...options.map(([v, t]) => el("option", {value: v, selected: v === state.source}, t)))),
            engines.length ? el("label", {}, "Served by", el("select", {id: "engine", onchange: e => { state.engine = e.target.value; state.source = "mix"; nearest(8); render(); }},
                el("option", {value: "", selected: !state.engine}, "any engine"),
                ...engines.map(f => el("option", {value: f.engine, selected: f.engine === state.engine}, f.engine + " " + f.version)))) : null),
        el("div", {class: "slide"}, el("button", {type: "button", class: "do", "aria-label": "fewer bits", onclick: () => move(-1)}, "−"),
            el("input", {type: "range", id: "corner", min: 0, max: 1, step: 1, value: 0, "aria-label": "budget", oninput: e => { state.at = +e.target.value; recipe(); }}),
            el("button", {type: "button", class: "do", "aria-label": "more bits", onclick: () => move(1)}, "+")),
        el("div", {id: "recipe"}));
};
const nearest = b => { // the last corner within b bits
    const f = frontierOf(state.source);
    if (!f) return;
    state.at = 0;
    f.corners.forEach((c, i) => { if (c.bits <= b) state.at = i; });
};

// ---- one or two cells ----
const compare = () => {
    const a = find(state.a), b = find(state.b);
    const out = el("section", {id: "compare", "aria-labelledby": "compare-h"}, el("h2", {id: "compare-h"}, b ? "Two cells side by side" : "One cell"));
    if (!a) {
        out.append(el("p", {class: "soft"}, "Choose a tile of the matrix above to see its layers, and a second one to compare. Choose it again to let go of it."));
        return out;
    }
    const totals = [a, b].map(c => c && c[6].reduce((s, x) => s + x, 0)), most = [a, b].map(c => c && Math.max(...c[6]));
    const key = (c, k) => el("span", {class: "key"}, el("b", {}, k), " " + words(cellName(c)) + " ", el("a", {href: cellLink(c)}, "report of " + cellName(c)));
    const rank = c => { const r = []; c[6].map((x, i) => [x, i]).sort((p, q) => q[0] - p[0] || p[1] - q[1]).forEach(([, i], n) => { r[i] = n + 1; }); return r; };
    const ra = rank(a), rb = b && rank(b);
    const order = G.map((_, i) => i).sort((x, y) => ra[x] - ra[y]).slice(0, state.all ? G.length : 20);
    const side = (c, i, k, n) => [el("td", {class: "n"}, number(c[6][i])), el("td", {class: "w " + k}, el("div", {class: "meter", style: `width:${most[n] > 0 ? 100 * c[6][i] / most[n] : 0}%`}))];
    out.append(el("p", {}, key(a, "A"), b ? key(b, "B") : ""),
        b ? el("p", {}, `All layers together: A ${number(totals[0])}, B ${number(totals[1])}` + (totals[0] > 0 ? `, B is ${number(totals[1] / totals[0])} times A.` : ".")) : "",
        el("div", {class: "scroll", tabindex: "0", role: "group", "aria-label": "Layers"}, el("table", {class: "bars"}, el("thead", {}, el("tr", {},
            ...["rank", "layer", "A", "", ...(b ? ["B", "", "B / A", "rank in B"] : [])].map((t, i) => t ? el("th", {scope: "col", class: i === 1 ? null : "n"}, t) : el("td", {})))),
            el("tbody", {}, ...order.map(i => el("tr", {}, el("td", {class: "n"}, String(ra[i])), el("td", {class: "name"}, ...G[i][0].split(/(?<=[._])/).flatMap(w => [w, el("wbr")])), ...side(a, i, "a", 0),
                ...(b ? [...side(b, i, "b", 1), el("td", {class: "n"}, a[6][i] > 0 ? number(b[6][i] / a[6][i]) : ""), el("td", {class: "n"}, String(rb[i]))] : [])))))));
    if (G.length > 20) out.append(el("button", {type: "button", class: "plain", onclick: () => { state.all = !state.all; render(); }}, state.all ? "show the first 20" : `show all ${G.length}`));
    return out;
};

// ---- the page ----
const app = document.getElementById("app");
const head = el("div", {class: "bar"}, el("fieldset", {class: "seg"}, el("legend", {}, "Calibration data"), ...D.sizes.map((s, i) =>
    el("label", {}, el("input", {type: "radio", name: "size", value: i, checked: i === state.size, onchange: () => { state.size = i; nearest(8); render(); }}), s))),
    el("label", {}, "Filter ", el("input", {type: "search", placeholder: "int4 group", "aria-label": "Filter cells by words of their names", oninput: e => {
        state.words = e.target.value.toLowerCase().split(/\s+/).filter(w => w);
        drawMatrix();
        filterRows();
    }})));
const matrixBox = el("div", {id: "matrix"}), rest = el("div", {});
const drawMatrix = () => {
    const held = document.activeElement && document.activeElement.dataset ? [document.activeElement.dataset.x, document.activeElement.dataset.y] : [];
    matrixBox.replaceChildren(matrix());
    const again = held[0] && matrixBox.querySelector(`[data-x="${held[0]}"][data-y="${held[1]}"]`);
    if (again) again.focus();
};
const filterRows = () => document.querySelectorAll("#cells tbody tr").forEach(tr => {
    const name = (tr.cells[0].textContent + "/" + tr.cells[1].textContent).toLowerCase();
    tr.hidden = !state.words.every(w => name.includes(w));
});
const render = () => {
    drawMatrix();
    rest.replaceChildren(budget(), compare());
    recipe();
};
app.append(el("nav", {"aria-label": "On this page"}, ...[["choose", "Formats"], ["budget", "Recipe for a budget"], ["compare", "Compare cells"], ["cells", "Every cell"],
    ["left-out", "Left out"]].filter(([id]) => id !== "left-out" || document.getElementById(id)).map(([id, text]) => el("a", {href: "#" + id}, text))),
    el("section", {id: "choose", "aria-labelledby": "choose-h"}, el("h2", {id: "choose-h"}, "How sensitive is the model to each format?"),
    el("p", {class: "soft"}, "Each tile is a cell: weights and activations in the formats of its row, scales as its column says. The number is the sum of all layers' sensitivities: compare it within one size of the data. Per token, about half of it is a divergence (KL) in nats."),
    head, matrixBox), rest);
dark.addEventListener("change", render);
roomy.addEventListener("change", render);
nearest(8);
render();
})();
