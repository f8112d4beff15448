// Loads the page of an unfinished job again, until it is finished.
document.addEventListener("DOMContentLoaded", () => {
  if (document.querySelector("[data-unfinished]")) setTimeout(() => location.reload(), 3000);
});
