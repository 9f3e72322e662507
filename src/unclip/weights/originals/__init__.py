"""Files of Karlo, Kandinsky 2.1, GLIDE and LAION as their projects published them."""
