// Shows the value of a figure's point: the nearest to the pointer, or one chosen by arrow keys.
for (const box of document.querySelectorAll(".values")) {
  const series = JSON.parse(box.dataset.values);
  const ring = box.querySelector(".ring"), value = box.querySelector(".value");
  const first = series.map((_, s) => series.slice(0, s).reduce((n, x) => n + x.points.length, 1));
  box.setAttribute("aria-valuemax", series.reduce((n, x) => n + x.points.length, 0));
  let line = 0, place = 0;
  const show = (s, i) => {
    line = s; place = i;
    const [x, y, text] = series[s].points[i], name = series[s].name;
    ring.style.left = `${100 * x}%`;
    ring.style.top = `${100 * y}%`;
    // Towards the middle of the figure, so that it is never cut off.
    value.style.left = x <= .5 ? `calc(${100 * x}% + 12px)` : "auto";
    value.style.right = x > .5 ? `calc(${100 - 100 * x}% + 12px)` : "auto";
    value.style.top = y <= .5 ? `calc(${100 * y}% + 8px)` : "auto";
    value.style.bottom = y > .5 ? `calc(${100 - 100 * y}% + 8px)` : "auto";
    value.replaceChildren();
    if (name) value.appendChild(document.createElement("b")).textContent = name;
    value.append(text);
    box.setAttribute("aria-valuenow", first[s] + i);
    box.setAttribute("aria-valuetext", name ? `${name}, ${text}` : text);
    ring.hidden = value.hidden = false;
  };
  const hide = () => { ring.hidden = value.hidden = true; };
  const nearest = (points, distance) =>
    points.reduce((best, point, i) => distance(point) < distance(points[best]) ? i : best, 0);
  box.addEventListener("pointermove", event => {
    const frame = box.getBoundingClientRect();
    const away = ([x, y]) => Math.hypot(frame.left + x * frame.width - event.clientX,
                                        frame.top + y * frame.height - event.clientY);
    const closest = series.map(one => nearest(one.points, away));
    const s = nearest(series, one => away(one.points[closest[series.indexOf(one)]]));
    show(s, closest[s]);
  });
  box.addEventListener("pointerleave", () => {
    if (document.activeElement === box) show(line, place); else hide();
  });
  box.addEventListener("focus", () => show(line, place));
  box.addEventListener("blur", hide);
  box.addEventListener("keydown", event => {
    const points = series[line].points, x = points[place][0];
    const other = step => {
      const s = (line + step + series.length) % series.length;
      show(s, nearest(series[s].points, point => Math.abs(point[0] - x)));
    };
    const act = {
      ArrowRight: () => show(line, Math.min(place + 1, points.length - 1)),
      ArrowLeft: () => show(line, Math.max(place - 1, 0)),
      ArrowDown: () => other(1),
      ArrowUp: () => other(-1),
      Home: () => show(line, 0),
      End: () => show(line, points.length - 1),
      Escape: hide,
    }[event.key];
    if (!act || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    act();
  });
}
