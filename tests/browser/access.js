// Runs inside a report that is shown in a frame: what a keyboard, a screen reader and a finger need. The verdict goes to
// the page around the frame.
(function () {
    const problems = [];
    const shown = (e) => e.getClientRects().length > 0 && getComputedStyle(e).visibility !== "hidden";
    const name = (e) => (e.getAttribute("aria-label") || e.textContent || "").trim() ||
        (e.labels && e.labels.length ? e.labels[0].textContent.trim() : "") || e.title;
    const what = (e) => e.tagName.toLowerCase() + (e.className && e.className.baseVal === undefined ? "." + e.className : "") + " '" + e.textContent.slice(0, 20) + "'";
    const wanted = (ok, text) => { if (!ok) problems.push(text); };

    wanted(document.documentElement.lang === "en", "no language");
    wanted(document.querySelectorAll("main").length === 1, "not one main");
    wanted(document.querySelectorAll("h1").length === 1, "not one h1");
    wanted(document.querySelector("a.skip"), "no link to the content");
    let last = 1;
    for (const h of document.querySelectorAll("h1,h2,h3,h4")) {
        const n = +h.tagName[1];
        wanted(n <= last + 1, "a heading is left out before " + what(h));
        last = n;
    }
    const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
    wanted(new Set(ids).size === ids.length, "an id is used twice: " + ids.filter((x, i) => ids.indexOf(x) !== i)[0]);
    for (const a of document.querySelectorAll('a[href^="#"]')) wanted(document.getElementById(a.getAttribute("href").slice(1)), "dead link " + a.getAttribute("href"));
    for (const th of document.querySelectorAll("th")) wanted(th.scope, "no scope: " + what(th));
    for (const e of document.querySelectorAll("[aria-labelledby]")) wanted(document.getElementById(e.getAttribute("aria-labelledby")), "no label for " + what(e));
    for (const e of document.querySelectorAll("button,input,select,summary,a[href],[tabindex='0']")) {
        if (!shown(e)) continue;
        wanted(name(e), "no name: " + what(e));
        if (e.matches("a") && e.closest("p,td,span") || e.matches(".skip") || e.matches("input[type=radio]")) continue; // in running text; a label beside it
        const b = e.getBoundingClientRect();
        if (e.matches("button,input,select,summary,a")) wanted(b.height >= 24 && b.width >= 24, "small: " + what(e) + " " + b.width.toFixed(0) + "x" + b.height.toFixed(0));
    }
    // what scrolls sideways inside the page can be reached by keyboard
    for (const e of document.querySelectorAll("div,pre")) {
        const style = getComputedStyle(e);
        if (shown(e) && /auto|scroll/.test(style.overflowX) && e.scrollWidth > e.clientWidth + 1) wanted(e.tabIndex === 0 && (e.tagName === "PRE" || name(e)), "scrolls, but not by keyboard: " + what(e));
    }
    for (const s of document.querySelectorAll("svg")) if (shown(s)) wanted(s.getAttribute("aria-hidden") || s.getAttribute("aria-label"), "a picture without a name");

    // contrast of text: 4.5 : 1
    const rgb = (text) => (text.match(/[\d.]+/g) || []).map(Number);
    const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const behind = (e) => {
        if (e.matches(".tile *, .tile")) { const r = e.closest(".tile").querySelector("rect"); if (r && !e.matches("b")) return rgb(getComputedStyle(r).fill); }
        for (let at = e; at; at = at.parentElement) { const c = rgb(getComputedStyle(at).backgroundColor); if (c.length === 3 || c[3] > 0.5) return c.slice(0, 3); }
        return [255, 255, 255];
    };
    const seen = new Set();
    for (const e of document.querySelectorAll("p,td,th,h1,h2,h3,a,button,span,code,label,summary,dt,dd,text,b")) {
        if (!shown(e) || ![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
        const style = getComputedStyle(e), ink = rgb(e.tagName === "text" ? style.fill : style.color).slice(0, 3), page = behind(e);
        const x = light(ink), y = light(page), ratio = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05), key = ink + "/" + page;
        if (ratio < 4.5 && !seen.has(key)) { seen.add(key); problems.push("contrast " + ratio.toFixed(2) + " of " + what(e) + " " + key); }
    }
    parent.postMessage(window.innerWidth + ": access: " + (problems.length ? problems.slice(0, 8).join("; ") : "fine"), "*");
})();
