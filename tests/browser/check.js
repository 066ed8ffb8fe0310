// Runs inside a report that is shown in a frame: finds texts of a picture that touch each other or leave it, and
// pages that scroll sideways. The verdict goes to the page around the frame.
(function () {
    const problems = [];
    const shown = (e) => e.getClientRects().length > 0;
    let pictures = 0, texts = 0;
    for (const svg of document.querySelectorAll("svg[role=img]")) {
        if (!shown(svg)) continue;
        pictures++;
        const frame = svg.getBoundingClientRect();
        const boxes = [...svg.querySelectorAll("text")].filter((t) => t.textContent !== "").map((t) => {
            const b = t.getBoundingClientRect();
            // a line box is taller than its letters
            return { t: t.textContent, l: b.left, r: b.right, u: b.top + b.height * 0.2, d: b.bottom - b.height * 0.2 };
        });
        texts += boxes.length;
        boxes.forEach((a, i) => {
            if (a.l < frame.left - 1 || a.r > frame.right + 1 || a.u < frame.top - 1 || a.d > frame.bottom + 1)
                problems.push("outside: " + a.t);
            for (const b of boxes.slice(i + 1))
                if (a.l < b.r + 3 && b.l < a.r + 3 && a.u < b.d && b.u < a.d) // a gap that an eye sees
                    problems.push("no gap: " + a.t + " / " + b.t);
        });
        if (frame.width > 0 && svg.viewBox.baseVal.width > 0 && frame.width / svg.viewBox.baseVal.width < 0.85)
            problems.push("shrunk: " + svg.getAttribute("aria-label"));
    }
    const page = document.documentElement;
    if (page.scrollWidth > window.innerWidth + 1 && document.querySelector("main, header"))
        problems.push("scrolls sideways: " + page.scrollWidth + " > " + window.innerWidth);
    const verdict = problems.length ? problems.slice(0, 9).join("; ") : pictures + " pictures, " + texts + " texts: clean";
    parent.postMessage(window.innerWidth + ": " + verdict, "*");
})();
