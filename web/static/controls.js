// Strategy, model, network, frames, scenarios. What is pressed or chosen is what the server says; a click only
// asks. What can be changed of one agent or one link is in `dialogs.js`.

import { byId, html, say, set } from "./dom.js";
import { left } from "./format.js";
import { callMe, me } from "./orders.js";

export const at = (id) => encodeURIComponent(id);
export const number = (field) => (Number.isNaN(field.valueAsNumber) ? null : field.valueAsNumber);

// Options as the server offers them; what is chosen by hand stays until the server says something else.
const offer = (select, names, now) => {
  const wanted = [...new Set([...names, ...(now ? [now] : [])])];
  if (wanted.join("\n") !== [...select.options].map((option) => option.value).join("\n"))
    select.replaceChildren(...wanted.map((name) => html("option", { value: name }, name)));
  if (now && select.dataset.now !== now) select.value = now;
  select.dataset.now = now ?? "";
};

export const createControls = (orders) => {
  const strategies = byId("strategies");
  const [model, network, scenario] = ["model", "network", "scenario"].map(byId);
  let pipeline = null;
  let offered = null;
  let state = null;
  let nowS = null;
  let drawnMs = null;
  const clockS = () => nowS + (Date.now() - drawnMs) / 1e3; // the server's, at this moment

  const ask = (button, said, path, body) =>
    pipeline && orders.perform(button, byId(said), `/api/pipelines/${at(pipeline.id)}/${path}`, body);

  strategies.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (button) ask(button, "strategy-said", "strategy", { strategy: button.value });
  });
  // Arrow keys go from strategy to strategy, as in a toolbar; each also has its own tab stop.
  strategies.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const all = [...strategies.children];
    const next = step && all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
    if (next) {
      next.focus();
      event.preventDefault();
    }
  });
  const onSubmit = (form, act) =>
    byId(form).addEventListener("submit", (event) => {
      event.preventDefault();
      act(event.submitter ?? byId(form).querySelector("button"));
    });
  onSubmit("model-form", (button) => ask(button, "model-said", "model", { model: model.value }));
  onSubmit("network-form", (button) => ask(button, "network-said", "network", { network: network.value }));
  onSubmit("run-form", () => {
    const frames = number(byId("frames"));
    ask(byId("start"), "run-said", "start", frames === null ? {} : { frames });
  });
  byId("stop").addEventListener("click", ({ target }) => ask(target, "run-said", "stop", {}));
  onSubmit("rate-form", () =>
    ask(byId("set-rate"), "rate-said", "rate", { rate_per_s: number(byId("rate")) }),
  );
  byId("pause").addEventListener("click", ({ target }) => {
    const paused = pipeline?.rate_per_s === 0;
    ask(target, "rate-said", "rate", { rate_per_s: paused ? number(byId("rate")) : 0 });
  });

  onSubmit("scenario-form", (button) => {
    const said = byId("scenario-said");
    if (state?.scene) orders.perform(button, said, "/api/scenario/stop", {}, { begun: true });
    else orders.perform(button, said, "/api/scenario", { scenario: scenario.value }, { begun: true });
  });
  let record = null;
  byId("record").addEventListener("click", async ({ target }) => {
    const atS = clockS(); // what is changed from now on counts
    const { createRecorder } = await import("./record.js");
    record ??= createRecorder(target, byId("record-said"));
    record.press(state.orders, atS);
  });

  const who = byId("who");
  who.value = me() === "the page" ? "" : me();
  who.addEventListener("change", () => callMe(who.value));

  const playing = (scene) => {
    const button = byId("play");
    say(button, scene ? "Stop" : "Play");
    set(scenario, { disabled: Boolean(scene) });
    const bar = byId("scenario-progress");
    set(bar, { hidden: !scene });
    if (!scene) {
      say(byId("scenario-now"), "");
      return;
    }
    set(bar, { max: scene.duration_s, value: Math.min(scene.duration_s, Math.max(0, nowS - scene.begun_s)) });
    const next = scene.next_s === null ? "" : `; next in ${Math.max(0, Math.ceil(scene.next_s - nowS))} s: ${scene.next}`;
    const over = left(scene.begun_s + scene.duration_s, nowS);
    say(byId("scenario-now"), `${scene.name}, by ${scene.by}: ${scene.done} of ${scene.events} changes, ${over}${next}`);
  };

  const offerScenarios = (scenarios) => {
    if (scenarios === offered) return;
    offered = scenarios;
    const chosen = scenario.value;
    scenario.replaceChildren(
      ...scenarios.map(({ name, description, refused }) =>
        html("option", { value: name, title: refused || description, disabled: Boolean(refused) }, name),
      ),
    );
    scenario.value = chosen || (scenarios.find(({ refused }) => !refused)?.name ?? "");
  };

  return (newState, now, atS) => {
    [state, pipeline, nowS, drawnMs] = [newState, now, atS, Date.now()];
    record?.saw(state.orders);
    const names = state.strategies;
    if (names.join() !== [...strategies.children].map((button) => button.value).join())
      strategies.replaceChildren(
        ...names.map((name) => html("button", { type: "button", value: name, "aria-pressed": "false" }, name)),
      );
    for (const button of strategies.children)
      set(button, { "aria-pressed": String(button.value === pipeline?.strategy), disabled: !pipeline });
    offer(model, state.models, pipeline?.model);
    offer(network, state.networks.map((each) => each.name), pipeline?.network);
    const chosen = state.networks.find((each) => each.name === network.value);
    set(network, { title: chosen?.description });
    set(byId("network-form"), { hidden: !state.networks.length });
    set(byId("scenario-form"), { hidden: !state.scenarios.length });
    offerScenarios(state.scenarios);
    playing(state.scene);
    for (const id of ["load", "set-network", "set-rate"]) set(byId(id), { disabled: !pipeline });
    const runs = pipeline?.phase === "running" || pipeline?.counting;
    set(byId("start"), { disabled: !pipeline || runs });
    set(byId("stop"), { disabled: !pipeline || !runs });
    const paused = pipeline?.rate_per_s === 0;
    set(byId("pause"), { disabled: !pipeline, "aria-pressed": String(paused) });
    say(byId("pause"), paused ? "Resume" : "Pause");
    set(byId("guarded"), { hidden: !state.guarded });
  };
};
