"""A page to look at a model's guiding code and to paint over its words.

  session   the model, and the images of one session
  server    answers the page's requests
  page      the page itself in .html, .css and .js; the server sends them as
            one file, which loads nothing from elsewhere
"""
