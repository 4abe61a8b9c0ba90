// Steps through a completion: what the call wrote stands out, what later calls write is hidden.
// A page that is told of calls one by one adds them to data-call and data-last, and has data-open on
// the completion until the last has come.
const stepper = (order, pause = 700) => {
  const play = order.querySelector(".play"), slider = order.querySelector("input");
  const list = order.querySelector(".tokens"), told = order.querySelector(".told");
  const verdict = order.querySelector(".verdict");
  const tokens = [...list.querySelectorAll(".token")];
  const last = () => Number(order.dataset.last), columns = Number(list.dataset.columns || 0);
  const mayGrow = () => "open" in order.dataset;
  const callOf = token => Number(token.dataset.call);
  const most = 3;  // tokens that are named after a call
  let timer = 0, at = 0;
  order.classList.add("live");
  const tell = token => {
    const later = token.classList.contains("later"), call = callOf(token);
    told.textContent = !later ? `Call ${call}: ${token.getAttribute("aria-label")}.`
      : isFinite(call) ? `Not written yet: call ${call} writes it.` : "Not written yet.";
  };
  const show = call => {
    slider.value = at = call;
    slider.setAttribute("aria-valuetext", `call ${call} of ${last()}`);
    order.querySelector(".reached").textContent = call;
    for (const token of tokens) {
      token.classList.toggle("later", callOf(token) > call);
      token.classList.toggle("now", callOf(token) === call);
    }
    // It is about the whole completion.
    if (verdict) verdict.style.visibility = call < last() ? "hidden" : "visible";
    told.textContent = call ? summary(call) : "";
  };
  // All tokens of a call, or if there are many, the one that was least probable.
  const summary = call => {
    const written = tokens.filter(token => callOf(token) === call
      && !token.classList.contains("filled"));
    const label = token => token.getAttribute("aria-label");
    const count = written.length === 1 ? "1 token" : `${written.length} tokens`;
    if (written.length > 0 && written.length <= most)
      return `Call ${call} wrote ${count}: ${written.map(label).join("; ")}.`;
    const known = written.filter(token => token.dataset.probability);
    const least = known.reduce((a, b) => a.dataset.probability <= b.dataset.probability ? a : b,
                               known[0]);
    return `Call ${call} wrote ${count}` + (least ? `; the least probable is ${label(least)}.` : ".");
  };
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
  const toggle = () => {
    if (timer) return stop();
    if (at >= last() && !mayGrow()) show(1);
    play.textContent = "Pause";
    timer = setInterval(() => {
      if (at < last()) show(at + 1);
      if (at >= last() && !mayGrow()) stop();
    }, pause);
  };
  play.addEventListener("click", toggle);
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  // One token can be reached by Tab, the others from it by the arrow keys.
  const choose = token => {
    for (const one of tokens) {
      one.tabIndex = one === token ? 0 : -1;
      one.setAttribute("aria-selected", one === token);
    }
  };
  list.addEventListener("focusin", event => { choose(event.target); tell(event.target); });
  list.addEventListener("pointerover", event => {
    const token = event.target.closest(".token");
    if (token) tell(token);
  });
  list.addEventListener("click", event => event.target.closest(".token")?.focus());
  list.addEventListener("keydown", event => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns || -1, ArrowDown: columns || 1,
                    Home: -tokens.length, End: tokens.length };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const place = tokens.indexOf(event.target) + steps[event.key];
    const kept = event.key === "Home" || event.key === "End";
    if (kept || tokens[place]) tokens[Math.max(0, Math.min(place, tokens.length - 1))].focus();
  });
  order.addEventListener("keydown", event => {
    if (event.target === play || (event.key !== " " && event.key !== "Enter")) return;
    event.preventDefault();
    toggle();
  });
  if (tokens.length) choose(tokens[0]);
  show(Math.min(1, last()));
  return { show, stop, toggle };
};
for (const order of document.querySelectorAll(".order")) stepper(order);
