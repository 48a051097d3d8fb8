for (const films of document.querySelectorAll(".films")) {
  const speed = films.querySelector(".speed");
  speed.hidden = false;
  speed.addEventListener("change", event => {
    for (const video of films.querySelectorAll("video")) {
      video.defaultPlaybackRate = video.playbackRate = Number(event.target.value);
    }
  });
}
