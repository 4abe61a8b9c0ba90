for (const order of document.querySelectorAll(".order")) {
  const slider = order.querySelector("input");
  const show = () => {
    order.querySelector("output").textContent = slider.value;
    for (const token of order.querySelectorAll("[data-call]"))
      token.classList.toggle("masked", Number(token.dataset.call) > Number(slider.value));
  };
  slider.addEventListener("input", show);
  show();  // a browser may have restored the slider's position
}
