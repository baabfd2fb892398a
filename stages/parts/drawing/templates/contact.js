"use strict";
const by = document.getElementById("by"), all = [...document.querySelectorAll("figure")];
if (by) by.addEventListener("change", () => {
  const share = figure => JSON.parse(figure.dataset.shares)[by.value] || 0;
  const order = by.value ? [...all].sort((a, b) => share(b) - share(a)) : all;
  document.querySelector("main").append(...order);
});
