// What somebody looks after: agents and links examined as `d3bed doctor` does, and who is let in.

import "./apart.js";
import { post } from "./asking.js";
import { html, say, set } from "./dom.js";
import { duration, plural, text } from "./format.js";

const LEVELS = { error: ["✖", "error"], warn: ["▲", "warning"], ok: ["✓", "fine"] };
const RANKS = Object.keys(LEVELS);

// What stands out comes first; of the rest the order of the examination is kept.
export const ranked = (findings) =>
  [...findings].sort((a, b) => RANKS.indexOf(a.level) - RANKS.indexOf(b.level));

export const summary = ({ findings, took_s: took }) => {
  const counts = RANKS.map((level) => findings.filter((found) => found.level === level).length);
  const [errors, warnings] = counts;
  const bad = [errors && plural(errors, "error"), warnings && plural(warnings, "warning")].filter(Boolean);
  return `${bad.length ? bad.join(", ") : "all is well"}: ${plural(findings.length, "finding")} in ${duration(took)}`;
};

const clock = (s) => (s === null ? "–" : new Date(s * 1e3).toLocaleString([], { dateStyle: "short", timeStyle: "medium" }));

export const create = (root) => {
  const find = (name) => root.querySelector(`[data-care="${name}"]`);

  // Busy while it works; what went wrong is said beside it.
  const during = async (button, said, work) => {
    if (button.getAttribute("aria-busy")) return;
    set(button, { "aria-busy": "true" });
    set(said, { class: "said" });
    try {
      say(said, await work());
    } catch (error) {
      set(said, { class: "said failed" });
      say(said, `✖ ${error.message}`);
    } finally {
      set(button, { "aria-busy": null });
    }
  };

  // ── the examination ─────────────────────────────────────────────────────────────────────────

  const tell = (examination) => {
    find("findings").replaceChildren(
      ...ranked(examination.findings).map(({ subject, about, level, text: words, remedy }) => {
        const [mark, word] = LEVELS[level];
        return html(
          "li",
          { class: level },
          html("span", { class: "mark", role: "img", "aria-label": word }, mark),
          html("strong", {}, `${subject}, ${about}`),
          html("span", {}, words, ...(remedy ? [html("span", { class: "remedy" }, ` → ${remedy}`)] : [])),
        );
      }),
    );
    return `${clock(examination.at_s)}: ${summary(examination)}`;
  };
  find("examine").addEventListener("click", ({ target }) => {
    say(find("examined"), "every agent tries each of its links: this takes some seconds");
    during(target, find("examined"), async () => tell(await post("/api/doctor", {})));
  });

  // ── who is let in ───────────────────────────────────────────────────────────────────────────

  const list = async () => {
    const credentials = await post("/api/credentials");
    find("credentials").replaceChildren(
      ...credentials.map((each) =>
        html(
          "tr",
          {},
          html("td", {}, each.agent),
          html("td", {}, each.tier),
          html("td", { class: each.state === "good" ? "fine" : "muted" }, each.state),
          html("td", { title: `from ${text(each.host)}` }, `${clock(each.made_s)}, by ${text(each.by)}`),
          html("td", {}, each.ended_s === null ? clock(each.used_s) : `ended ${clock(each.ended_s)}, by ${text(each.ended_by)}`),
          html("td", {}, ...(each.ended_s === null ? [revoking(each.agent)] : [])),
        ),
      ),
    );
    set(find("table"), { hidden: !credentials.length });
    return credentials.length ? "" : "No agent has a credential of its own: they come with the server's token, or none is needed.";
  };

  // Asks once more before it cuts an agent off.
  const revoking = (agent) => {
    const first = html("button", { type: "button", class: "small", "aria-label": `Revoke the credential of ${agent}` }, "Revoke…");
    const yes = html("button", { type: "button", class: "small danger" }, `Yes, cut ${agent} off`);
    const no = html("button", { type: "button", class: "small" }, "No");
    const sure = html("span", { class: "sure", hidden: true }, yes, " ", no);
    const ask = (asked) => {
      set(sure, { hidden: !asked });
      set(first, { hidden: asked });
      (asked ? no : first).focus();
    };
    first.addEventListener("click", () => ask(true));
    no.addEventListener("click", () => ask(false));
    yes.addEventListener("click", () =>
      during(yes, find("said"), async () => {
        const { message } = await post(`/api/credentials/${encodeURIComponent(agent)}/revoke`, {});
        await list();
        return `✓ ${message}`;
      }),
    );
    return html("span", {}, first, sure);
  };
  find("show").addEventListener("click", ({ target }) => during(target, find("said"), list));
};
