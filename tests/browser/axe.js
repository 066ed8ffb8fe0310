// Runs inside a page that is shown in a frame, after axe-core: what it finds, for the page around the frame.
axe.run(document, {resultTypes: ["violations"]}).then((r) => {
    const found = r.violations.map((v) => v.id + " (" + v.impact + ", " + v.nodes.length + "): " +
        v.nodes.slice(0, 3).map((n) => n.target.join(" ") + ": " + n.failureSummary.split("\n")[1].trim()).join("; "));
    const verdict = found.length ? found.join("\n    ") : r.passes.length > 20 ? "no violation" : "few rules: " + r.passes.length;
    parent.postMessage(window.innerWidth + ": axe: " + verdict, "*");
});
